"""Finds credentials in texts with those rules of detect-secrets (Yelp) that know the form of a token.

Its rules for entropy and for words like `password` are for source code: in prose they find secrets everywhere. Nothing
is verified over the network.
"""

import re
from functools import cache
from typing import Any

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.plugins.base import RegexBasedDetector
from detect_secrets.plugins.ip_public import IPPublicDetector


class HuggingFaceTokenDetector(RegexBasedDetector):
    """Access tokens of the Hub, which detect-secrets has no rule for."""

    secret_type = "Hugging Face Token"
    denylist = (re.compile(r"\b(?:hf|api_org)_[A-Za-z]{34}\b"),)


@cache
def _detectors() -> list[Any]:
    classes: list[Any] = [*get_mapping_from_secret_type_to_class().values(), HuggingFaceTokenDetector]
    # An address is no secret.
    return [c() for c in classes if issubclass(c, RegexBasedDetector) and c is not IPPublicDetector]


def find_secrets(text: str) -> list[str]:
    """The kinds of secrets that a text holds, each once, e.g. `AWS Access Key`; about 3 MB/s on one core."""
    return [d.secret_type for d in _detectors() if next(iter(d.analyze_string(text)), None) is not None]

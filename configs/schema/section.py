"""What every part of the config is made from."""

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

MODELS = ("model", "models", "embedder")
"""Fields that name a model: a folder or a Hub id."""


class Section(BaseModel):
    """A part of the config: frozen, and closed to unknown keys. A path that begins with `~` is below the home folder,
    and so is a model's."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @field_validator("*")
    @classmethod
    def _path(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Path):
            if "\0" in str(value):
                raise ValueError("a path has no NUL in it")
            try:
                os.fsencode(value).decode()
            except UnicodeError:
                raise ValueError("a path is UTF-8") from None
            return Path(os.path.expanduser(value))
        if info.field_name in MODELS:
            names = value if isinstance(value, tuple) else (value,)
            expanded = tuple(os.path.expanduser(name) if isinstance(name, str) else name for name in names)
            return expanded if isinstance(value, tuple) else expanded[0]
        return value

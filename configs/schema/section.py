"""What every part of the config is made from, and how its texts name files, folders and models."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator

Name = TypeVar("Name", str, Path)


def at_home(name: Name) -> Name:
    """The name with the home folder in the place of a `~` that opens it, or the path in `file:~/x` and `a+~/x.txt`.
    Raises ValueError for what can be no path."""
    text = str(name)
    if "\0" in text:
        raise ValueError("a path has no NUL in it")
    try:
        os.fsencode(text).decode()
    except UnicodeError:
        raise ValueError("a path is UTF-8") from None
    expanded = re.sub(r"(^|[:+])(~[^/:+]*)(?=/|$)", lambda found: found[1] + os.path.expanduser(found[2]), text)
    return name if expanded == text else type(name)(expanded)


Named = Annotated[str, AfterValidator(at_home)]
"""What names a file or folder, or may do so: a glob, a model, a strategy, `file:PATH`."""


class Section(BaseModel):
    """A part of the config: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _meant(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        kind = field.annotation
        # A field that reads its values itself knows what true and false may mean: the language `no` of YAML 1.1.
        reads_itself = any(isinstance(rule, BeforeValidator) for rule in field.metadata)
        if isinstance(value, bool) and kind is not bool and not reads_itself:
            raise ValueError("expected another value than true or false")
        if value == "" and Path in (kind, *get_args(kind)):
            raise ValueError("expected a path")
        return value

    @field_validator("*")
    @classmethod
    def _usable(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError("expected a number below 2**63")
        if isinstance(value, tuple) and not all(entry.strip() for entry in value if isinstance(entry, str)):
            raise ValueError("expected no empty text in the list")
        return at_home(value) if isinstance(value, Path) else value

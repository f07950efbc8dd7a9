"""What every part of the config is made from."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the config: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

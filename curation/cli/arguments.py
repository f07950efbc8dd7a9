"""What every verb takes: a config file, and settings that replace the file's."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from configs.schema import Config

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The experiment.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="section.key=value", help="Settings that replace the file's.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of the table.")]


def finite(value: float | None) -> float | None:
    """What checks an option that is a number: `nan` and `inf` are none."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number to reckon with")
    return value


def load(path: Path, overrides: Sequence[str] | None) -> "Config":
    """The config, imported when a verb needs it. Raises UserError."""
    from configs.load import load_config

    return load_config(path, overrides or ())

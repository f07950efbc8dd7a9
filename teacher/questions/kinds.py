"""Kinds of questions: what a model is asked for, and what an answer has to be.

A kind is a file `kinds/NAME.yaml`, or one of your own, by its path in `questions.kinds`:

    ask: Each question asks for a colour. An answer is a colour that the passage names.
    words: 3

It needs `ask`, which is put into `prompt.txt`; the other fields are those of `Kind`. `cloze` is made by rule
(teacher.questions.cloze), so that it needs no model.
"""

from pathlib import Path
from typing import ClassVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from configs.errors import UserError, nearest
from configs.files import read_given
from configs.schema import Questions

FOLDER = Path(__file__).with_name("kinds")
CLOZE = "cloze"


class Kind(BaseModel):
    """What the questions of a kind ask for."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    ask: str = Field(min_length=1)
    """Sentences of the prompt that say what to ask for and what an answer is; of no use where a rule makes the kind."""
    copied: bool = True
    """The answer has to stand in the passage."""
    words: int = Field(default=12, ge=1)
    """Most words of an answer."""
    number: bool = False
    """The answer has to hold a digit."""
    named: bool = False
    """The question has to hold a name or a number, where its script has capitals."""

    by_rule: ClassVar[bool] = False
    """Whether no model writes it."""


class KindByRule(Kind):
    """`cloze`; a file of that name is a kind that a model writes."""

    by_rule: ClassVar[bool] = True


def kinds_of(settings: Questions) -> list[Kind]:
    """The kinds that a config asks for, in its order. Raises UserError for an unknown one, a file that is none, two of
    one name, and one that needs a model where `questions.model` names none."""
    kinds = [_read_kind(name) for name in settings.asked_kinds]
    names = [kind.name for kind in kinds]
    for kind in kinds:
        if names.count(kind.name) > 1:
            raise UserError(f"questions.kinds names {kind.name!r} twice")
        if not settings.model and not kind.by_rule:
            raise UserError(
                f"questions.kinds: a model writes {kind.name!r}: set questions.model, or questions.kinds=[{CLOZE}],"
                " which are made by rule"
            )
    return kinds


def _read_kind(name: str) -> Kind:
    if name == CLOZE:
        return KindByRule(name=CLOZE, ask="none", named=True)
    own = name.endswith((".yaml", ".yml"))
    path = Path(name) if own else FOLDER / f"{name}.yaml"
    valid = [*(file.stem for file in FOLDER.glob("*.yaml")), CLOZE]
    if not own and name not in valid:
        raise UserError(f"questions.kinds: unknown kind {name!r}; {nearest(name, valid)}")
    try:
        fields = yaml.safe_load(read_given("questions.kinds", path))
        if not isinstance(fields, dict) or "name" in fields:
            raise UserError(f"questions.kinds: {path}: expected `ask: ...` and the fields of a kind, and no `name`")
        return Kind(name=path.stem, **fields)
    except yaml.YAMLError as error:
        raise UserError(f"questions.kinds: {path} is no YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        valid = [field for field in Kind.model_fields if field != "name"]
        why = nearest(where, valid) if first["type"] == "extra_forbidden" else first["msg"]
        raise UserError(f"questions.kinds: {path}: {where}: {why}") from None
    except TypeError:
        raise UserError(f"questions.kinds: {path}: a field's name is not a text") from None

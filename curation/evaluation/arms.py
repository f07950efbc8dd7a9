"""Arms: lines of `evaluation.arms`, each with the texts that it teaches."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from configs.errors import UserError, nearest
from configs.schema import Config
from curation.lab.items import LAB, REWRITES
from teacher.prompting.strategies import read_strategy, strategy_label

FORMS = [
    "none", "raw", "repeated", "untrained", "strategy:NAME", "strategies", "ensemble", "trained", "trained:RUN",
    "best-of:N", "file:PATH.jsonl",
]  # fmt: skip

LAB_ARM = "world"
"""Name of the arm `file:lab`."""

Kind = Literal["none", "raw", "repeated", "untrained", "strategy", "ensemble", "trained", "best-of", "file"]


class ArmLine(NamedTuple):
    """One arm, as the config names it."""

    name: str
    kind: Kind
    value: str = ""
    """Strategy, run directory, number of lessons or file."""

    @property
    def samples(self) -> bool:
        """Whether a teacher writes its texts, so that there can be more of them."""
        return self.kind in ("untrained", "strategy", "ensemble", "trained")

    @property
    def own_to_student(self) -> bool:
        """Whether each student has texts of its own."""
        return self.kind == "best-of" or (self.kind == "trained" and not self.value)

    @property
    def equal_tokens(self) -> bool:
        """Whether its students train on as many tokens as the others."""
        return self.kind not in ("none", "raw")

    def words(self) -> str:
        """What it is, for tables and plots."""
        match self.kind:
            case "none":
                return "no training"
            case "raw":
                return "raw documents"
            case "repeated":
                return "raw documents, repeated"
            case "untrained":
                return "untrained teacher"
            case "strategy":
                return f"{strategy_label(self.value)} alone"
            case "ensemble":
                return "fixed-prompt ensemble"
            case "trained":
                return f"trained teacher ({self.value})" if self.value else "trained teacher"
            case "best-of":
                return f"best of {self.value} by reward"
            case "file":
                return "the world's own rewrites" if self.name == LAB_ARM else f"rewrites of {Path(self.value).name}"


def parse_arms(config: Config) -> list[ArmLine]:
    """The arms of `evaluation.arms` in their order, `strategies` taken apart. Raises UserError for an unknown arm, a
    strategy or file that is not there, and for settings that contradict the arms."""
    found: list[ArmLine] = []
    for line in config.evaluation.arms:
        if line == "strategies":
            found += [_arm(config, f"strategy:{name}") for name in config.teacher.strategies]
        else:
            found.append(_arm(config, line))
    if not found:
        raise UserError(f"evaluation.arms names none; valid: {', '.join(FORMS)}")
    twice = [name for name, count in Counter(arm.name for arm in found).items() if count > 1]
    if twice:
        raise UserError(f"evaluation.arms: two arms are named {twice[0]!r}")
    _check(config, found)
    return found


def _arm(config: Config, line: str) -> ArmLine:
    kind, _, value = line.partition(":")
    match kind, bool(value):
        case ("none" | "raw" | "repeated" | "untrained") as plain, False:
            return ArmLine(plain, plain)  # type: ignore[arg-type]
        case "strategy", True:
            _check_strategy(config, value, "evaluation.arms")
            return ArmLine(f"strategy:{strategy_label(value)}", "strategy", value)
        case "ensemble", False:
            for name in config.evaluation.ensemble:
                _check_strategy(config, name, "evaluation.ensemble")
            if not config.evaluation.ensemble:
                raise UserError("evaluation.ensemble is empty: name the strategies of the arm 'ensemble'")
            return ArmLine("ensemble", "ensemble")
        case "trained", _:
            return ArmLine(line, "trained", value)
        case "best-of", True:
            if not value.isdecimal() or int(value) < 2:
                raise UserError(f"evaluation.arms: {line!r}: best of how many lessons? e.g. best-of:4")
            return ArmLine(line, "best-of", value)
        case "file", True if value == LAB and config.evaluation.lab:
            return ArmLine(LAB_ARM, "file", str(config.run.dir / "evaluation" / REWRITES))
        case "file", True:
            if not Path(value).is_file():
                raise UserError(f"evaluation.arms: no file {value!r}")
            return ArmLine(Path(value).stem, "file", value)
    known = [form.partition(":")[0] for form in FORMS]
    advice = f"its form is {nearest(kind, FORMS)}" if kind in known else nearest(kind, FORMS)
    raise UserError(f"evaluation.arms: {line!r} is no arm: {advice}")


def _check_strategy(config: Config, name: str, key: str) -> None:
    """A policy teacher knows its ways of rewriting by their tags, any other reads the strategy file."""
    if config.teacher.prompting == "policy":
        if name not in config.teacher.strategies:
            raise UserError(
                f"{key}: {name!r} is none of teacher.strategies, {nearest(name, list(config.teacher.strategies))}"
            )
        return
    try:
        read_strategy(name)
    except UserError as error:
        raise UserError(str(error).replace("teacher.strategies", key, 1)) from None


def _check(config: Config, arms: Sequence[ArmLine]) -> None:
    settings = config.evaluation
    by_name = {arm.name: arm for arm in arms}
    named = {"against": (settings.against,), "scaling_arms": settings.scaling_arms}
    named["edits_arm"] = (settings.edits_arm,) if settings.edits_arm else ()
    for key, names in named.items():
        for name in names:
            if name not in by_name:
                raise UserError(f"evaluation.{key}: {name!r} is none of the arms, {nearest(name, list(by_name))}")
    for name in settings.scaling_arms:
        if not by_name[name].samples and by_name[name].kind != "file":
            raise UserError(f"evaluation.scaling_arms: {name!r} cannot be written more of")
    shaped = next((arm.name for arm in arms if arm.kind in ("trained", "best-of")), None)
    if settings.questions == "all" and shaped:
        raise UserError(
            f"evaluation.questions 'all' also asks the reward questions that the arm {shaped!r} was chosen by"
        )
    if any(arm.kind != "file" and (arm.samples or arm.kind == "best-of") for arm in arms) and not config.teacher.model:
        raise UserError("teacher.model is not set: the arms need a teacher that writes")


def scaling_lines(config: Config, arms: Sequence[ArmLine]) -> list[ArmLine]:
    """The arms with a scaling curve."""
    settings = config.evaluation
    if not settings.scaling:
        return []
    if settings.scaling_arms:
        return [arm for arm in arms if arm.name in settings.scaling_arms]
    return [arm for arm in arms if arm.samples]


def edits_line(config: Config, arms: Sequence[ArmLine]) -> ArmLine:
    """The arm whose lessons are taught in a sequence of edits."""
    name = config.evaluation.edits_arm
    if name:
        return next(arm for arm in arms if arm.name == name)
    trained = [arm for arm in arms if arm.kind == "trained"]
    return trained[0] if trained else arms[-1]

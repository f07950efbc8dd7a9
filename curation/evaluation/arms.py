"""Arms: lines of `evaluation.arms`, each with the texts that it teaches."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from configs.errors import UserError, nearest
from configs.schema import Evaluation, Teacher
from curation.lab.items import LAB
from teacher.prompting.strategies import check_strategy, is_ready, needs_model, strategy_label
from teacher.records import ONE_RUN

FORMS = [
    "none", "raw", "repeated", "untrained", "strategy:NAME", "strategies", "ensemble", "trained", "trained:RUN",
    "trained:NAME", "best-of:N", "oracle", "file:PATH.jsonl", "distilled:ARM",
]  # fmt: skip

LAB_ARM = "world"
"""Name of the arm `file:lab`."""

ALONE = "strategy:"
"""Begins the names of arms of one strategy."""

DISTILLED = "distilled:"
"""Begins the names of arms whose students learn the texts of another arm by distillation."""

Kind = Literal["none", "raw", "repeated", "untrained", "strategy", "ensemble", "trained", "best-of", "oracle", "file"]


class Arm(NamedTuple):
    """One arm, as the config names it."""

    name: str
    kind: Kind
    value: str = ""
    """Strategy, run directory or name of `evaluation.teachers`, number of lessons, or file."""
    scaled: bool = False
    """Whether it is also taught with the numbers of rewrites in `evaluation.scaling`."""
    run: int = 0
    """Number of the training run, from 1 on, where `evaluation.training_runs` makes several."""
    distilled: bool = False
    """Whether its students learn what their base expects with the document before the text, not the text."""

    @property
    def group(self) -> str:
        """The name under which it is compared: several training runs are compared as one."""
        return self.name.removesuffix(f"-{self.run}") if self.run else self.name

    @property
    def texts_of(self) -> str:
        """The name of the arm that has the same texts and does not distill them."""
        return self.name.removeprefix(DISTILLED)

    @property
    def chosen(self) -> bool:
        """Whether students choose among several lessons of each document."""
        return self.kind in ("best-of", "oracle")

    @property
    def written(self) -> bool:
        """Whether a teacher writes its texts, so that there can be more of them."""
        return self.kind in ("untrained", "strategy", "ensemble", "trained")

    def strategies(self, settings: Evaluation, teacher: Teacher) -> tuple[str, ...]:
        """Those of its texts: named by the arm, or the teacher's."""
        return {"strategy": (self.value,), "ensemble": settings.ensemble}.get(self.kind, teacher.strategies)

    def needs_model(self, settings: Evaluation, teacher: Teacher) -> bool:
        """Whether a teacher is loaded for its texts. Where the arm names the strategies, nobody has to choose one."""
        if self.kind in ("strategy", "ensemble", "oracle"):
            return not all(map(is_ready, self.strategies(settings, teacher)))
        return self.kind == "trained" or (self.kind in ("untrained", "best-of") and needs_model(teacher))

    @property
    def equal_tokens(self) -> bool:
        """Whether its students train on as many tokens as the others."""
        return self.kind not in ("none", "raw")

    @property
    def words(self) -> str:
        """What it is, for tables and plots."""
        words: dict[Kind, str] = {
            "none": "no training",
            "raw": "raw documents",
            "repeated": "raw documents, repeated",
            "untrained": "untrained teacher",
            "strategy": f"{strategy_label(self.value)} alone",
            "ensemble": "fixed-prompt ensemble",
            "trained": self.words_of_runs(ONE_RUN),
            "best-of": f"best of {self.value} by reward",
            "oracle": "the best strategy of each document, chosen with the answers",
            "file": "the world's own rewrites" if self.texts_of == LAB_ARM else f"rewrites of {Path(self.value).name}",
        }
        return words[self.kind] + self.learnt

    @property
    def learnt(self) -> str:
        """How its texts are learnt, where that is another way than the others'."""
        return ", distilled from the base that reads the document" if self.distilled else ""

    def words_of_runs(self, runs: str) -> str:
        """A trained teacher's arm in words, of so many `runs`."""
        return f"trained teacher{f' ({self.value})' if self.value else ''}, {runs}"

    def trained_here(self, settings: Evaluation) -> bool:
        """Whether its teachers are trained by the evaluation where they are missing."""
        named = self.value in settings.teachers if self.value else settings.teacher_for == "each"
        return self.kind == "trained" and named


def parse_arms(settings: Evaluation, teacher: Teacher, lab_rewrites: Path) -> list[Arm]:
    """The arms of `evaluation.arms` in their order, with `strategies` as one arm for each of `teacher.strategies`, and
    the file `lab_rewrites` for `file:lab`. Raises UserError for an unknown arm, a strategy or file that is not there,
    and settings that contradict the arms."""
    arms: list[Arm] = []
    for line in settings.arms:
        distilled, line = line.startswith(DISTILLED), line.removeprefix(DISTILLED)
        single = [ALONE + name for name in teacher.strategies] if line == "strategies" else [line]
        parsed = [_parse_arm(arm, settings, teacher, lab_rewrites) for arm in single]
        if parsed[0].trained_here(settings) and settings.training_runs > 1:
            runs = range(1, settings.training_runs + 1)
            parsed = [parsed[0]._replace(name=f"{line}-{run}", run=run) for run in runs]
        if distilled and any(arm.kind == "none" or arm.chosen for arm in parsed):
            raise UserError(f"evaluation.arms: {DISTILLED}{line}: {line!r} has no texts of its own to be distilled")
        arms += [arm._replace(name=DISTILLED + arm.name, distilled=True) if distilled else arm for arm in parsed]
    _check(arms, settings, teacher)
    if not settings.scaling:
        return arms
    scaled = settings.scaling_arms or [arm.name for arm in arms if arm.written]
    return [arm._replace(scaled=arm.name in scaled) for arm in arms]


def _parse_arm(line: str, settings: Evaluation, teacher: Teacher, lab_rewrites: Path) -> Arm:
    kind, _, value = line.partition(":")
    match kind, bool(value):
        case ("none" | "raw" | "repeated" | "untrained" | "oracle") as plain, False:
            return Arm(plain, plain)  # type: ignore[arg-type]
        case "strategy", True:
            _check_strategy(value, teacher, "evaluation.arms")
            return Arm(ALONE + strategy_label(value), "strategy", value)
        case "ensemble", False:
            for name in settings.ensemble:
                _check_strategy(name, teacher, "evaluation.ensemble")
            if not settings.ensemble:
                raise UserError("evaluation.ensemble is empty: name the strategies of the arm 'ensemble'")
            return Arm("ensemble", "ensemble")
        case "trained", _:
            return Arm(line, "trained", value)
        case "best-of", True:
            if not value.isdecimal() or int(value) < 2:
                raise UserError(f"evaluation.arms: {line!r}: best of how many lessons? e.g. best-of:4")
            return Arm(line, "best-of", value)
        case "file", True if value == LAB and settings.lab:
            return Arm(LAB_ARM, "file", str(lab_rewrites))
        case "file", True:
            if not Path(value).is_file():
                raise UserError(f"evaluation.arms: no file {value!r}")
            return Arm(Path(value).stem, "file", value)
    known = [form.partition(":")[0] for form in FORMS]
    advice = f"its form is {nearest(kind, FORMS)}" if kind in known else nearest(kind, FORMS)
    raise UserError(f"evaluation.arms: {line!r} is no arm: {advice}")


def _check_strategy(name: str, teacher: Teacher, key: str) -> None:
    """A policy teacher knows its strategies by their tags, any other teacher reads the strategy file. Ready texts need
    no teacher."""
    if teacher.prompting != "policy" or is_ready(name):
        check_strategy(name, key)
    elif name not in teacher.strategies:
        raise UserError(f"{key}: {name!r} is none of teacher.strategies, {nearest(name, list(teacher.strategies))}")


def _check(arms: Sequence[Arm], settings: Evaluation, teacher: Teacher) -> None:
    if not arms:
        raise UserError(f"evaluation.arms names none; valid: {', '.join(FORMS)}")
    by_name, groups = {arm.name: arm for arm in arms}, names_by_group(arms)
    for key, name in [("against", settings.against), *(("compared", name) for name in settings.compared)]:
        if name not in groups:
            raise UserError(f"evaluation.{key}: {name!r} is none of the arms, {nearest(name, list(groups))}")
    if unused := settings.teachers.keys() - {arm.value for arm in arms if arm.kind == "trained"}:
        raise UserError(f"evaluation.teachers: {min(unused)!r} is in no arm: name trained:{min(unused)}")
    [(name, count)] = Counter(arm.name for arm in arms).most_common(1)
    if count > 1:
        raise UserError(f"evaluation.arms: two arms are named {name!r}")
    references = [("scaling_arms", name) for name in settings.scaling_arms]
    references += [("edits_arm", settings.edits_arm)] if settings.edits_arm else []
    for key, name in references:
        if name not in by_name:
            raise UserError(f"evaluation.{key}: {name!r} is none of the arms, {nearest(name, list(by_name))}")
    for name in settings.scaling_arms:
        if not by_name[name].written and by_name[name].kind != "file":
            raise UserError(f"evaluation.scaling_arms: {name!r} cannot be written more of")
    rewarded = next((arm.name for arm in arms if arm.kind in ("trained", "best-of")), None)
    if settings.questions == "all" and rewarded:
        raise UserError(
            f"evaluation.questions 'all' also asks the reward questions that the arm {rewarded!r} was chosen by"
        )
    if any(arm.needs_model(settings, teacher) for arm in arms) and not teacher.model:
        raise UserError("teacher.model is not set: the arms need a teacher that writes")


def names_by_group(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """What is compared as one, with the names of its arms: several of a teacher's training runs, one else."""
    groups: dict[str, list[str]] = {}
    for arm in arms:
        groups.setdefault(arm.group, []).append(arm.name)
    return groups


def edits_arm(settings: Evaluation, arms: Sequence[Arm]) -> Arm:
    """The arm whose lessons are taught in a sequence of edits."""
    if settings.edits_arm:
        return next(arm for arm in arms if arm.name == settings.edits_arm)
    return next((arm for arm in arms if arm.kind == "trained"), arms[-1])

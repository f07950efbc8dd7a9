"""Fewer students for the same answer (`reward.screen`): only lessons that may be a document's best are taught in full.

There is one mechanism with up to two stages. The first reads cheap signs of all lessons (`teacher.reward.signs`, and
their strategies). The second teaches those that are left for a fraction of the steps, and takes that gain as one more
sign: successive halving (Jamieson and Talwalkar 2016) whose shares follow from the evidence. Each stage is a ridge
regression that the run fits on its own outcomes (`student.statistics.screening`).

A random share of the documents is taught whole. By these alone the screen is fitted and judged, so that what it leaves
out cannot hide. A stage drops lessons where the lower end of its correlation's interval is above `floor`, and as many
as that end allows. Lessons that are not taught have no gain and no reward. The few that are taught are mostly of one
strategy, and hardly stand out of each other: under `reward.pool_strategies` they stand out of all lessons of their
document instead, by what the strategies of those that were left out are worth (`teacher.reward.pooling`).

All that is fitted is read from the lines of earlier steps in journal/rewrites.jsonl, and the share is drawn by the
seed: a resumed run chooses as the first one did.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from configs import schema
from configs.seeds import stable_seed
from student.records import StudentPool
from student.statistics.reliability import Noise
from student.statistics.screening import Fit, fit_screen, lessons_to_teach
from teacher.records import Rewrite
from teacher.reward.signs import Signs, SignWork, Texts, read_signs
from teacher.reward.student_runs import StudentRuns

SHORT = "short"
"""The sign that is the gain after `reward.screen.steps`."""
STRATEGY = "strategy "


class Known(NamedTuple):
    """A lesson of a document that was taught whole."""

    group: tuple[int, str]
    """Step and document."""
    batch: tuple[int, int]
    """Step, and which documents shared students in it."""
    signs: Signs
    gain: float


class Stage(NamedTuple):
    """The signs that lessons are ranked by, and what they were seen to tell."""

    names: tuple[str, ...]
    fit: Fit

    @classmethod
    def of(cls, names: Sequence[str], known: Sequence[Known]) -> "Stage":
        """Fitted on what is known."""
        signs_NS = np.array([[_number(one.signs.get(name)) for name in names] for one in known])
        groups = [one.group for one in known]
        fit = fit_screen(
            signs_NS, np.array([one.gain for one in known]), groups, [document for _, document in groups],
            {one.group: one.batch for one in known},
        )  # fmt: skip
        return cls(tuple(names), fit)

    def table(self, signs: Sequence[Signs]) -> np.ndarray:
        """Signs of a document's lessons as the fit takes them (G, S)."""
        # A strategy that a lesson does not have is a share of 0, and not unknown.
        none = {name: 0.0 for name in self.names if name.startswith(STRATEGY)}
        return np.array([[_number((none | of_one).get(name)) for name in self.names] for of_one in signs])


class Screen:
    """The screen of one step."""

    def __init__(
        self, settings: schema.Screen, runs: StudentRuns | None, step: int, known: Sequence[Known], noise: Noise | None
    ) -> None:  # fmt: skip
        """`runs` read signs and draw documents; without them what is known can be asked alone."""
        self.settings, self.step, self.known = settings, step, tuple(known)
        self._runs = runs
        self.untried = not known
        """Whether nothing is known yet: then all documents are measured."""
        names = sorted({name for one in known for name in one.signs})
        cheap = [name for name in names if name != SHORT]
        stages = [cheap, names] if SHORT in names and cheap else [names]
        self.stages = [Stage.of(stage, known) for stage in stages if stage]
        self.reliability = _reliability(known, noise)

    @property
    def runs(self) -> StudentRuns:
        """The students of the run."""
        assert self._runs is not None
        return self._runs

    @property
    def on(self) -> bool:
        """Whether any stage may drop lessons."""
        return any(map(self._predicts, self.stages))

    def whole(self, batch: range) -> bool:
        """Whether the documents that share students are drawn to be taught whole."""
        seed = self.runs.config.run.seed
        return stable_seed(seed, "screen", self.step, batch.start) / 2**31 < self.settings.share

    def kept(self, lessons: int, stage: int) -> int:
        """How many of a document's lessons are left after a stage."""
        if stage >= len(self.stages) or not self._predicts(self.stages[stage]):
            return lessons
        regret = self.settings.regret / len(self.stages)
        # Of a short training the noise is partly that of the long one: nothing is corrected for it.
        reliability = 1.0 if SHORT in self.stages[stage].names else self.reliability
        low = math.floor(100 * self.stages[stage].fit.correlation.low) / 100
        return lessons_to_teach(low, lessons, round(reliability, 2), regret)

    def promising(self, stage: int, left: Sequence[int], signs: Mapping[int, Signs]) -> list[int]:
        """Those of the lessons `left` that stay after a stage; refused ones have no signs, and go first."""
        count = self.kept(len(left), stage)
        if count == len(left):
            return list(left)
        usable = [g for g in left if g in signs]
        one = self.stages[stage]
        best = [usable[i] for i in one.fit.rank(one.table([signs[g] for g in usable]))] if usable else []
        return sorted([*best, *(g for g in left if g not in signs)][:count])

    def read(self, lessons_DG: Sequence[Sequence[Sequence[Rewrite]]], pool: StudentPool) -> list[dict[int, Signs]]:
        """The cheap signs of each document's lessons that passed the gates."""
        usable = [
            {g: "\n".join(r.text for r in lesson if r.rejected is None) for g, lesson in enumerate(lessons)}
            for lessons in lessons_DG
        ]
        usable = [{g: text for g, text in texts.items() if text} for texts in usable]
        documents = [
            Texts(self.runs.documents[lessons[0][0].document_id], tuple(texts.values()))
            for lessons, texts in zip(lessons_DG, usable, strict=True)
        ]
        work = SignWork.of_run(self.runs, pool, documents)
        return [
            {
                g: strategy_signs([r.strategy for r in lessons[g] if r.rejected is None]) | of_lesson
                for g, of_lesson in zip(texts, signs, strict=True)
            }
            for lessons, texts, signs in zip(lessons_DG, usable, read_signs(work, self.settings.signs), strict=True)
        ]

    def figures(self, lessons: int) -> dict[str, float | int | None]:
        """What a step's line says of it."""
        values: dict[str, float | int | None] = {"screen/on": int(self.on), "screen/lessons": lessons}
        left = lessons
        for stage, (names, fit) in enumerate(self.stages):
            label = SHORT if SHORT in names else "signs"
            left = self.kept(left, stage)
            values |= {f"screen/{label}/{part}": value for part, value in fit.correlation._asdict().items()}
            values |= {f"screen/{label}/documents": fit.documents, f"screen/{label}/kept": left}
        return values

    def _predicts(self, stage: Stage) -> bool:
        return stage.fit.correlation.low > self.settings.floor


def strategy_signs(strategies: Sequence[str]) -> Signs:
    """The share of each strategy in a lesson, a sign of its own each."""
    return {f"{STRATEGY}{name}": count / len(strategies) for name, count in Counter(strategies).items()}


class Taught(NamedTuple):
    """A document of an earlier step whose lessons were all taught, with the lines of each lesson that passed."""

    group: tuple[int, str]
    batch: tuple[int, int]
    lessons: list[list[Mapping[str, Any]]]


def taught_whole(
    lines: Sequence[Mapping[str, Any]], rounds: range, together: int, before: float = math.inf
) -> list[Taught]:
    """The documents that were taught whole in these rounds, before a step, of the lines of journal/rewrites.jsonl."""
    documents: dict[tuple[int, str], dict[int, list[Mapping[str, Any]]]] = {}
    for line in lines:
        if line["arm"] == "train" and line["round"] in rounds and line["step"] < before:
            documents.setdefault((line["step"], line["document_id"]), {}).setdefault(line["set"], []).append(line)
    found = []
    place: Counter[int] = Counter()
    for group, sets in documents.items():
        batch = group[0], place[group[0]] // together
        place[group[0]] += 1
        lessons = [[line for line in of if line["rejected"] is None] for of in sets.values()]
        lessons = [of for of in lessons if of]
        if all(of[0].get("taught", True) for of in lessons):
            found.append(Taught(group, batch, lessons))
    return found


def known_lessons(documents: Sequence[Taught], signs_DG: Sequence[Sequence[Signs | None]]) -> list[Known]:
    """The lessons of documents of which all have signs."""
    names = sorted({line["strategy"] for one in documents for lesson in one.lessons for line in lesson})
    none = {f"{STRATEGY}{name}": 0.0 for name in names}
    known = []
    for (group, batch, lessons), signs_G in zip(documents, signs_DG, strict=True):
        if None not in signs_G:
            known += [
                Known(group, batch, {**none, **(signs or {})}, lesson[0]["gain"])
                for lesson, signs in zip(lessons, signs_G, strict=True)
                if lesson[0]["gain"] is not None
            ]
    return known


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _reliability(known: Sequence[Known], noise: Noise | None) -> float:
    """Share of true differences in those between the gains of a document's lessons; 1 where the noise is unknown."""
    by_group: dict[tuple[int, str], list[float]] = {}
    for one in known:
        by_group.setdefault(one.group, []).append(one.gain)
    squares = sum(float(np.var(gains)) * len(gains) for gains in by_group.values())
    degrees = sum(len(gains) - 1 for gains in by_group.values())
    if noise is None or not squares or not degrees:
        return 1.0
    return max(0.0, 1 - noise.variance * degrees / squares)

"""What curation chooses a document's rewrites by (`curation.best_of`): a screen that a training run fits on its own
outcomes, after every round.

It reads the signs that need no questions, since a corpus brings none: those of the text alone, what the untouched
student makes of it where `reward.screen.signs` asks for that, and the strategy. It is fitted on all lessons of the last
rounds that were taught whole, whether `reward.screen` left others out or not. It lies beside the checkpoints, as
`teacher/screen.json`, and goes where they go.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.files import Record, read_own, write_whole
from configs.format import interval, without_nan
from configs.schema import Screen as ScreenSettings
from configs.schema.reward import Measure
from student.records import StudentPool
from student.statistics.intervals import Estimate
from student.statistics.screening import Fit
from teacher.reward.screen import STRATEGY, Stage, known_lessons, strategy_signs, taught_whole
from teacher.reward.signs import SIGNS, Signs, SignWork, Texts, TextWork, read_signs
from teacher.reward.student_runs import StudentRuns
from teacher.run.checkpoints import SCREEN_FILE


class Predicted(NamedTuple):
    """What a rewrite gains above the mean of the rewrites that it is compared with, in `reward.measure`."""

    gain: float
    error: float
    """Half the interval that holds the gain of one student 95 times in 100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedScreen:
    """A fitted screen, as it is kept."""

    signs: tuple[str, ...]
    """Names in `SIGNS`."""
    names: tuple[str, ...]
    """The columns of its table: signs and strategies."""
    weights: tuple[float, ...]
    correlation: Estimate
    """See `Fit`, as the next two."""
    documents: int
    spread: float
    measure: Measure
    student: str | None
    """Fingerprint of the students' pool, where a sign asks the untouched student."""

    @property
    def told(self) -> str:
        """Its correlation in words."""
        return f"rank correlation with measured gains {interval(*self.correlation)} on {self.documents} documents"

    @property
    def strategies(self) -> set[str]:
        """Labels of the strategies whose lessons it has seen."""
        return {name.removeprefix(STRATEGY) for name in self.names if name.startswith(STRATEGY)}

    def read(
        self, groups: Sequence[Texts], strategies: Sequence[Sequence[str]], pool: StudentPool | None
    ) -> list[list[Signs]]:
        """The signs of documents' texts, which have these strategies: documents x texts."""
        return _with_strategies(read_signs(TextWork(groups, pool), self.signs), strategies)

    def predict(self, signs: Sequence[Signs]) -> list[Predicted]:
        """What each of a document's rewrites gains above their mean."""
        fit = Fit(np.array(self.weights), self.correlation, self.documents, np.zeros(0), self.spread)
        gains_G = fit.predict(Stage(self.names, fit).table(signs))
        return [Predicted(gain, fit.error(len(signs))) for gain in gains_G.tolist()]


def text_signs(settings: ScreenSettings) -> tuple[str, ...]:
    """The signs that need no questions: all that cost nothing, and the others that the settings name."""
    return tuple(
        name for name, sign in SIGNS.items() if not sign.questions and (not sign.work or name in settings.signs)
    )


def fit_for_curation(
    runs: StudentRuns, pool: StudentPool, lines: Sequence[Mapping[str, Any]], rounds: range
) -> FittedScreen | None:
    """The screen of the lines of journal/rewrites.jsonl of these rounds. None where a lesson is a set of rewrites or is
    credited with its whole student's gain (neither says what a single rewrite is worth), and where no group was taught
    whole."""
    config = runs.config
    if config.rl.rewrites_per_lesson > 1 or config.reward.credit == "shard":
        return None
    documents = taught_whole(lines, rounds, config.reward.documents_together)
    documents = [one for one in documents if one.group[1] in runs.documents]  # a fork may have others
    groups = [
        Texts(runs.documents[one.group[1]], tuple(lesson[0]["text"] for lesson in one.lessons)) for one in documents
    ]
    signs = text_signs(config.reward.screen)
    strategies = [[lesson[0]["strategy"] for lesson in one.lessons] for one in documents]
    found = _with_strategies(read_signs(SignWork.of_run(runs, pool, groups), signs), strategies)
    known = known_lessons(documents, found)
    if not known:
        return None
    stage = Stage.of(sorted({name for one in known for name in one.signs}), known)
    return FittedScreen(
        signs=signs, names=stage.names, weights=tuple(stage.fit.weights_S.tolist()),
        correlation=stage.fit.correlation, documents=stage.fit.documents, spread=stage.fit.spread,
        measure=config.reward.measure, student=pool.fingerprint if any(SIGNS[name].work for name in signs) else None,
    )  # fmt: skip


def write_screen(run_dir: Path, screen: FittedScreen) -> None:
    """Keeps it beside the checkpoints."""
    record = asdict(screen) | {"correlation": screen.correlation._asdict()}
    write_whole(run_dir / "teacher" / SCREEN_FILE, json.dumps(without_nan(record), indent=1) + "\n")


def read_screen(path: Path) -> FittedScreen:
    """What `write_screen` wrote."""

    def parse(record: Record) -> FittedScreen:
        numbers = {name: float("nan") if value is None else value for name, value in record["correlation"].items()}
        changes = {"correlation": Estimate(**numbers), "spread": float(record["spread"] or "nan")}
        lists = {name: tuple(record[name]) for name in ("signs", "names", "weights")}
        return FittedScreen(**record | lists | changes)

    return read_own(path, parse)


def _with_strategies(signs: Sequence[Sequence[Signs]], strategies: Sequence[Sequence[str]]) -> list[list[Signs]]:
    return [
        [strategy_signs([name]) | of_text for name, of_text in zip(names, of_one, strict=True)]
        for names, of_one in zip(strategies, signs, strict=True)
    ]

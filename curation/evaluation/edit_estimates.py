"""From rows to the estimates of edits in a row: each figure is a sequence's, its mean and interval are over sequences.

Sequences draw the order and the company of the same documents anew and have other seeds, so an interval says how far
the mean of such sequences may lie from theirs. It says nothing about other documents or another teacher's lessons.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from configs.schema.reward import Measure
from curation.evaluation.records import EditSequences, Estimate, ReplayEffect
from curation.evaluation.statistics import ClusteredMean, Kind, kind_of_gain

Row = Mapping[str, Any]


class _Sequence(NamedTuple):
    """The figures of one sequence. States are the student before the first edit and after each."""

    sizes: np.ndarray
    """(edits): documents that each edit teaches."""
    accuracy: np.ndarray
    """(states, edits): mean over the documents that an edit teaches."""
    rewarded: np.ndarray
    """The same of the rewarded measure."""
    studied: np.ndarray
    """(states): accuracy on all documents taught so far; nan before the first edit."""
    studied_unedited: np.ndarray
    """(states): on the same documents, that of the student before the first edit."""
    old_questions: int
    old_accuracy: np.ndarray
    """(states): on the retention questions; nan without."""
    old_loss: np.ndarray
    """(states): on the retention texts; nan without."""


def estimate_edits(
    rows: Sequence[Row], taught: str, replay: float, measure: Measure
) -> tuple[list[EditSequences], ReplayEffect | None]:
    """The estimates of the rows of one student model: without replay and with it, and what replay changes. `taught` is
    the arm whose lessons were taught, `replay` the share of replayed documents, `measure` what is rewarded."""
    grouped: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        grouped.setdefault(row["arm"], {}).setdefault(row["seed"], []).append(row)
    by_arm = {
        arm: {seed: _figures(of_one, measure) for seed, of_one in by_seed.items()} for arm, by_seed in grouped.items()
    }
    estimates = [
        _estimate(list(by_seed.values()), taught, replay if arm == "replay" else 0.0, kind_of_gain(measure))
        for arm, by_seed in by_arm.items()
    ]
    without, replayed = by_arm.get("none", {}), by_arm.get("replay", {})
    pairs = [(replayed[seed], without[seed]) for seed in without if seed in replayed]
    if not pairs:
        return estimates, None
    # The first edit is common to both.
    studied, old = (
        [_minus(getattr(with_replay, name), getattr(plain, name))[2:] for with_replay, plain in pairs]
        for name in ("studied", "old_accuracy")
    )
    changed = _means(studied, "difference", np.cumsum(pairs[0][0].sizes)[1:])
    if changed is None:
        return estimates, None
    old_questions = np.full(len(changed), pairs[0][0].old_questions)
    return estimates, ReplayEffect(studied=changed, retention_accuracy=_means(old, "difference", old_questions))


def _figures(rows: Sequence[Row], measure: Measure) -> _Sequence:
    # In rows of this setting the batch is the edit that first teaches the document.
    edit_of = {row["document_id"]: row["batch"] for row in rows if row["kind"] == "document"}
    sizes = Counter(edit_of.values())
    edits = range(1, max(sizes) + 1)
    after = [("after", [row for row in rows if row["edit"] == e]) for e in range(1, max(r["edit"] for r in rows) + 1)]
    # The rows of the student in each state; those of edit 1 tell of the never-edited student, too.
    states = [("before", after[0][1]), *after]

    def table(value: str) -> np.ndarray:
        table = []
        for when, of_state in states:
            by_document: dict[str, list[float]] = {}
            for row in of_state:
                if row["kind"] == "document" and row[f"{value}_{when}"] is not None:
                    by_document.setdefault(row["document_id"], []).append(row[f"{value}_{when}"])
            means = {name: statistics.fmean(values) for name, values in by_document.items()}
            table.append([statistics.fmean(means[n] for n in means if edit_of[n] == edit) for edit in edits])
        return np.array(table)

    accuracy, sizes_E = table("correct"), np.array([sizes[edit] for edit in edits])

    def studied(of_state: Callable[[int], int]) -> np.ndarray:
        """After each edit, by the row of `accuracy` that `of_state` gives."""
        means = [
            np.average(accuracy[of_state(state), :state], weights=sizes_E[:state]) for state in range(1, len(states))
        ]
        return np.array([np.nan, *means])

    old = [[row[f"correct_{when}"] for row in of_state if row["kind"] == "retention"] for when, of_state in states]
    losses = [of_state[0][f"retention_loss_{when}"] for when, of_state in states]
    return _Sequence(
        sizes=sizes_E,
        accuracy=accuracy,
        rewarded=table(measure),
        studied=studied(lambda state: state),
        studied_unedited=studied(lambda state: 0),
        old_questions=len(old[0]),
        old_accuracy=np.array([statistics.fmean(answers) if answers else np.nan for answers in old]),
        old_loss=np.array(losses, dtype=float),  # None becomes nan
    )


def _estimate(sequences: Sequence[_Sequence], arm: str, replay: float, gain: Kind) -> EditSequences:
    sizes, old_questions = sequences[0].sizes, sequences[0].old_questions
    states = range(max(len(one.accuracy) for one in sequences))

    def table(figures: Sequence[np.ndarray], kind: Kind, texts: np.ndarray | None = None) -> list[list[Estimate]]:
        rows = (_means([values[state] for values in figures if state < len(values)], kind, texts) for state in states)
        return [row for row in rows if row is not None]

    taught, asked = np.cumsum(sizes), np.full(len(states), old_questions)
    studied = _means([one.studied[1:] for one in sequences], "share", taught)
    unedited = _means([one.studied_unedited[1:] for one in sequences], "share", taught)
    difference = _means([(one.studied - one.studied_unedited)[1:] for one in sequences], "difference", taught)
    assert studied is not None and unedited is not None and difference is not None
    forgotten = [one.old_accuracy[1:] - one.old_accuracy[0] for one in sequences]
    return EditSequences(
        arm=arm,
        replay=replay,
        sequences=len(sequences),
        accuracy=table([one.accuracy for one in sequences], "share", sizes),
        gain=table([one.rewarded - one.rewarded[0] for one in sequences], gain),
        studied=studied,
        studied_unedited=unedited,
        studied_difference=difference,
        retention_accuracy=_means([one.old_accuracy for one in sequences], "share", asked),
        retention_difference=_means(forgotten, "difference", asked),
        retention_loss=_means([one.old_loss for one in sequences], "mean"),
    )


def _minus(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """As far as both sequences came."""
    both = min(len(left), len(right))
    return left[:both] - right[:both]


def _means(figures: Sequence[np.ndarray], kind: Kind, texts: np.ndarray | None = None) -> list[Estimate] | None:
    """Mean and interval over sequences at each place, of those that came so far; None where nothing was measured.
    `texts`: how many a share at each place is of."""
    if not any(map(len, figures)) or any(np.isnan(values).any() for values in figures):
        return None
    estimates = []
    for place in range(max(map(len, figures))):
        values = {str(n): float(of_one[place]) for n, of_one in enumerate(figures) if place < len(of_one)}
        clusters = {name: int(name) for name in values}
        estimates.append(ClusteredMean(values, clusters, kind, 1 if texts is None else int(texts[place])).estimate)
    return estimates

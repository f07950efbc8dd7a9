"""From rows to the estimates of edits in a row: each figure is a sequence's, its mean and interval are over sequences.

Sequences draw the order and the company of the same documents anew and have other seeds, so an interval says how far
the mean of such sequences may lie from theirs. It says nothing about other documents or another teacher's lessons.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from curation.evaluation.records import EditSequences, Estimate, ReplayEffect
from curation.evaluation.statistics import ClusteredMean, Kind

Row = Mapping[str, Any]


class _Sequence(NamedTuple):
    """The figures of one sequence. States are the student before the first edit and after each."""

    sizes: np.ndarray
    """(edits): documents that each edit teaches."""
    accuracy: np.ndarray
    """(states, edits): mean over the documents that an edit teaches."""
    studied: np.ndarray
    """(states): accuracy on all documents taught so far; nan before the first edit."""
    studied_unedited: np.ndarray
    """(states): on the same documents, that of the student before the first edit."""
    old_questions: int
    old_accuracy: np.ndarray
    """(states): on the retention questions; nan without."""


def estimate_edits(rows: Sequence[Row], taught: str, replay: float) -> tuple[list[EditSequences], ReplayEffect | None]:
    """The estimates of the rows of one student model: without replay and with it, and what replay changes. `taught` is
    the arm whose lessons were taught, `replay` the share of replayed documents."""
    grouped: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        grouped.setdefault(row["arm"], {}).setdefault(row["seed"], []).append(row)
    by_arm = {arm: {seed: _figures(of_one) for seed, of_one in by_seed.items()} for arm, by_seed in grouped.items()}
    estimates = [
        _estimate(list(by_seed.values()), taught, replay if arm == "replay" else 0.0) for arm, by_seed in by_arm.items()
    ]
    without, replayed = by_arm.get("none", {}), by_arm.get("replay", {})
    pairs = [(replayed[seed], without[seed]) for seed in without if seed in replayed]
    if not pairs:
        return estimates, None
    first = pairs[0][0]

    def changed(name: str, texts: np.ndarray) -> list[Estimate] | None:
        # As far as both sequences came, from the second edit on: the first is common to both.
        sides = [(getattr(with_replay, name), getattr(plain, name)) for with_replay, plain in pairs]
        return _means([left[2 : len(right)] - right[2 : len(left)] for left, right in sides], "difference", texts)

    studied = changed("studied", np.cumsum(first.sizes)[1:])
    if studied is None:
        return estimates, None
    old = changed("old_accuracy", np.full(len(studied), first.old_questions))
    return estimates, ReplayEffect(studied=studied, retention_accuracy=old)


def share_right(rows: Sequence[Row], when: str = "after") -> float:
    """Of the answers to questions; those of running text count only where nothing else is asked, as in
    `teacher.reward.student_runs.narrow`."""
    graded = [row for row in rows if row["bits_after"] is None] or rows
    return statistics.fmean(row[f"correct_{when}"] for row in graded)


def _figures(rows: Sequence[Row]) -> _Sequence:
    # In rows of this setting the batch is the edit that first teaches the document.
    edit_of = {row["document_id"]: row["batch"] for row in rows if row["kind"] == "document"}
    counts = Counter(edit_of.values())
    sizes_E = np.array([counts[edit] for edit in range(1, max(counts) + 1)])
    after = [("after", [row for row in rows if row["edit"] == e]) for e in range(1, max(r["edit"] for r in rows) + 1)]
    # The rows of the student in each state; those of edit 1 tell of the never-edited student, too.
    states = [("before", after[0][1]), *after]
    accuracy = np.empty((len(states), len(sizes_E)))
    for state, (when, of_state) in enumerate(states):
        by_document: dict[str, list[Row]] = {}
        for row in of_state:
            if row["kind"] == "document":
                by_document.setdefault(row["document_id"], []).append(row)
        means = {name: share_right(of_document, when) for name, of_document in by_document.items()}
        accuracy[state] = [
            statistics.fmean(means[name] for name in means if edit_of[name] == edit + 1) for edit in range(len(sizes_E))
        ]

    def studied(states_of: Sequence[int]) -> np.ndarray:
        """After each edit, by the row of `accuracy` that `states_of` names."""
        means = [
            np.average(accuracy[states_of[state], :state], weights=sizes_E[:state]) for state in range(1, len(states))
        ]
        return np.array([np.nan, *means])

    old = [(when, [row for row in of_state if row["kind"] == "retention"]) for when, of_state in states]
    return _Sequence(
        sizes=sizes_E,
        accuracy=accuracy,
        studied=studied(range(len(states))),
        studied_unedited=studied([0] * len(states)),
        old_questions=len(old[0][1]),
        old_accuracy=np.array([share_right(asked, when) if asked else np.nan for when, asked in old]),
    )


def _estimate(sequences: Sequence[_Sequence], arm: str, replay: float) -> EditSequences:
    sizes, states = sequences[0].sizes, max(len(one.accuracy) for one in sequences)
    taught = np.cumsum(sizes)
    asked = np.full(states, sequences[0].old_questions)
    table = [
        _means([one.accuracy[state] for one in sequences if state < len(one.accuracy)], "share", sizes)
        for state in range(states)
    ]
    studied = _means([one.studied[1:] for one in sequences], "share", taught)
    unedited = _means([one.studied_unedited[1:] for one in sequences], "share", taught)
    difference = _means([(one.studied - one.studied_unedited)[1:] for one in sequences], "difference", taught)
    assert studied is not None and unedited is not None and difference is not None
    return EditSequences(
        arm=arm,
        replay=replay,
        sequences=len(sequences),
        accuracy=[row for row in table if row is not None],
        studied=studied,
        studied_unedited=unedited,
        studied_difference=difference,
        retention_accuracy=_means([one.old_accuracy for one in sequences], "share", asked),
    )


def _means(figures: Sequence[np.ndarray], kind: Kind, texts: np.ndarray) -> list[Estimate] | None:
    """Mean and interval over sequences at each place, of those that came so far; None where nothing was measured.
    `texts`: how many a share at each place is of."""
    if not any(map(len, figures)) or any(np.isnan(values).any() for values in figures):
        return None
    estimates = []
    for place in range(max(map(len, figures))):
        values = {str(n): float(of_one[place]) for n, of_one in enumerate(figures) if place < len(of_one)}
        clusters = {name: int(name) for name in values}
        estimates.append(ClusteredMean(values, clusters, kind, int(texts[place])).estimate)
    return estimates

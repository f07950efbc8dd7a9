"""What the signals are held against: outcomes that a file brings, or other students than those of the signals."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from configs.errors import UserError
from configs.files import parse_lines
from configs.load import changed
from configs.schema import Config, Student, Validity
from curation.console.progress import say
from curation.study.groups import Candidate, Group
from student.statistics.reliability import gains_table


def match_outcomes(groups: Sequence[Group], settings: Validity) -> tuple[list[Group], np.ndarray]:
    """The groups with those of their rewrites that have an outcome, and the outcomes: documents x rewrites x runs, nan
    where there is no run. What has none is counted by its reason and said; documents with fewer than two such rewrites
    are left out. Raises UserError where more than `most_unmatched` of the rewrites have none."""
    source = _outcomes_by_document(settings)
    reasons: Counter[str] = Counter()
    kept, runs = [], []
    for group in groups:
        found: list[tuple[Candidate, list[float]]] = []
        for candidate in group.candidates:
            outcome = _outcome(candidate, group, source, settings.target_field)
            if isinstance(outcome, str):
                reasons[outcome] += 1
            else:
                found.append((candidate, outcome))
        if len(found) >= 2:
            kept.append(replace(group, candidates=tuple(candidate for candidate, _ in found)))
            runs.append([outcome for _, outcome in found])
    total, unmatched = sum(len(group.candidates) for group in groups), reasons.total()
    words = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    where = settings.target_file or "the documents"
    if unmatched > settings.most_unmatched * total:
        raise UserError(
            f"validity.target_field {settings.target_field!r} in {where}: {unmatched} of {total} rewrites have no"
            f" outcome ({words}); validity.most_unmatched allows a share of {settings.most_unmatched:g}"
        )
    if unmatched:
        say(f"warning: {unmatched} of {total} rewrites have no outcome in {where}, left out: {words}")
    if len(kept) < len(groups):
        say(f"warning: {len(groups) - len(kept)} documents with fewer than two rewrites that have one are left out")
    if not kept:
        raise UserError(f"{where}: no document has two rewrites with {settings.target_field!r}")
    return kept, gains_table(runs)


def target_student(config: Config) -> Student:
    """The target's students: those of the config with `target_student` on top, which decode where recall is the target.
    Raises UserError for settings that a student does not have, and for those that contradict the config's others."""
    settings = config.validity
    changes = settings.target_student | ({"decode": True} if settings.target_measure == "recall" else {})
    return changed(config, {"student": changes}, "validity.target_student").student


def _outcomes_by_document(settings: Validity) -> dict[str, list[Any]] | None:
    """The rewrites of each line of `target_file` by the line's id; None where the documents bring them."""
    if settings.target_file is None:
        return None
    by_id: dict[str, list[Any]] = {}

    def add(row: Any) -> None:
        if not isinstance(row, dict) or row.get("id") is None or not isinstance(row.get("rewrites"), list):
            raise UserError("no object with `id` and `rewrites`")
        if str(row["id"]) in by_id:
            raise UserError(f"id {str(row['id'])!r} stands on two lines")
        by_id[str(row["id"])] = row["rewrites"]

    parse_lines("validity.target_file", settings.target_file, add)
    return by_id


def _outcome(candidate: Candidate, group: Group, source: dict[str, list[Any]] | None, field: str) -> list[float] | str:
    """The runs of one rewrite, or why there are none."""
    metadata = group.document.metadata
    if candidate.place is None:
        return "of documents that bring no rewrites"
    own = metadata["rewrites"]
    entries = own
    if source is not None:
        found = source.get(str(metadata.get("source_id")))
        if found is None:
            return "of documents that are not in the file"
        if len(found) != len(own):
            return "of documents with another number of rewrites in the file"
        entries = found
    entry = entries[candidate.place]
    if not isinstance(entry, dict) or entry.get(field) is None:
        return f"without {field!r}"
    if entry.get("text", candidate.text) != candidate.text:
        return "with another text in the file"
    values = entry[field] if isinstance(entry[field], list) else [entry[field]]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if not values or len(numbers) < len(values) or not all(math.isfinite(number) for number in numbers):
        return f"whose {field!r} are not numbers"
    return [float(number) for number in numbers]

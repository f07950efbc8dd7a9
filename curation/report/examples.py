"""Documents beside the lessons made of them: where students gained most and least, with what changed marked."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from datatrove.data import Document
from markupsafe import Markup, escape

from configs.errors import UserError
from configs.schema import Config
from configs.schema.reward import Measure
from curation.corpus.finding import find_shards
from curation.corpus.passages import Cutter
from curation.corpus.shards import read_shard
from curation.corpus.training_data import training_id
from curation.evaluation.records import LESSONS_FILE, EvaluationResult
from curation.report.evaluation import trained_arms
from curation.report.parts import marked, number
from curation.report.training import Training, round_and_step
from student.grids.grid import read_pairs
from student.records import in_measure

SEPARATOR = "\n\n"
PALETTE = ("#111", "#0072d6", "#f93c31", "#4fcc30", "#ffdc00", "#999", "#e53aa3", "#ff851b", "#87d8f1", "#921231")
"""The ten colours in which tasks of ARC are usually shown."""

Example = tuple[str, list[tuple[str, Markup]]]
"""Texts about one document, side by side: a title, and the title and the text of each column."""


class Lesson(NamedTuple):
    """The texts of a lesson, and what its students gained where that is known."""

    document_id: str
    text: str
    strategy: str
    gain: float | None


def examples(run: Training | None, evaluation: EvaluationResult | None, folder: Path) -> list[Example]:
    """Held-out documents first, best and worst of the evaluation, then best and worst of the last step of training."""
    evaluated = list(_evaluated(evaluation, folder / LESSONS_FILE)) if evaluation else []
    return [*evaluated, *(_trained(run, heldout=not evaluated) if run else ())]


def _trained(run: Training, heldout: bool) -> Iterator[Example]:
    """Examples of a training run; with `heldout` first up to two documents that the trained teacher rewrites otherwise
    than the untrained one."""
    before, after = (
        {lesson.document_id: lesson for lesson in _lessons(line for line in run.rewrites if line["arm"] == arm)}
        for arm in ("untrained", "trained")
    )
    changed = [name for name in before if name in after and before[name].text != after[name].text]
    changed = changed[:2] if heldout else []
    scored = [line for line in run.rewrites if line["arm"] == "train" and line.get("gain") is not None]
    last = max(map(round_and_step, scored), default=None)
    extremes = _extremes(_lessons(line for line in scored if round_and_step(line) == last))
    measure = run.config.reward.measure
    texts = _document_texts(run.config, {*changed, *(lesson.document_id for _, lesson in extremes)})
    for name in changed:
        lessons = [("untrained teacher", before[name]), ("trained teacher", after[name])]
        yield _side_by_side(f"Held-out, {name}", texts.get(name), lessons, measure)
    for which, lesson in extremes:
        title = f"{which} gain of the last training step, {lesson.document_id}"
        yield _side_by_side(title, texts.get(lesson.document_id), [("the lesson", lesson)], measure)


def _evaluated(evaluation: EvaluationResult, path: Path) -> Iterator[Example]:
    """For each student the held-out documents that the trained teacher's lessons helped most and least, beside the
    untrained teacher's; without a trained one, those of the config's last arm."""
    rows = pq.read_table(path).to_pylist() if path.is_file() else []
    text_by_id = {row["document_id"]: row["document"] for row in rows}
    for label, student in evaluation.students.items():
        others = [name for name in student.arms if name != evaluation.reference]
        arm = next(iter(trained_arms(student)), others[-1] if others else evaluation.reference)
        lessons: dict[str, dict[str, Lesson]] = {name: {} for name in student.arms}
        for row in rows:
            if row["student"] == label:
                name, text, counts = row["document_id"], SEPARATOR.join(row["texts"]), Counter(row["strategies"])
                # `question-answer × 3, copy`
                strategies = ", ".join(name if n == 1 else f"{name} × {n}" for name, n in counts.items())
                lessons.setdefault(row["arm"], {})[name] = Lesson(name, text, strategies, row["gain"])
        # Of several training runs the first is shown.
        for which, lesson in _extremes((lessons[arm] or lessons.get(f"{arm}-1", {})).values()):
            shown = [(arm, lesson)]
            before = lessons.get("untrained", {}).get(lesson.document_id)
            if arm in trained_arms(student) and before is not None:
                shown.insert(0, ("untrained", before))
            title = f"{which} gain of {label}, held-out, {lesson.document_id}"
            yield _side_by_side(title, text_by_id[lesson.document_id], shown, evaluation.measure)


def _extremes(lessons: Iterable[Lesson]) -> list[tuple[str, Lesson]]:
    """The lessons of highest and lowest gain; one where all are equal."""
    known = [(lesson.gain, lesson) for lesson in lessons if lesson.gain is not None]
    if not known:
        return []
    (most, best), (least, worst) = (choose(known, key=lambda item: item[0]) for choose in (max, min))
    return [("Highest", best)] if most == least else [("Highest", best), ("Lowest", worst)]


def _lessons(lines: Iterable[Mapping[str, Any]]) -> list[Lesson]:
    """Lines of rewrites.jsonl by the lesson that they were taught in; refused ones taught nothing."""
    by_lesson: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for line in lines:
        if not line.get("rejected"):
            by_lesson.setdefault((line["document_id"], line.get("set", line["sample"])), []).append(line)
    lessons = []
    for (name, _), rewrites in by_lesson.items():
        gains = [line["gain"] for line in rewrites if line.get("gain") is not None]
        strategies = ", ".join(dict.fromkeys(line["strategy"] for line in rewrites))
        text = SEPARATOR.join("\n".join(filter(None, [line.get("plan"), line["text"]])) for line in rewrites)
        lessons.append(Lesson(name, text, strategies, sum(gains) / len(gains) if gains else None))
    return lessons


def _side_by_side(title: str, document: str | None, lessons: Sequence[tuple[str, Lesson]], measure: Measure) -> Example:
    """The document beside its lessons, with words marked that only one holds. Without a document, two lessons are
    marked against each other, and plans beside the picture of a task are not marked. Gains are in `measure`."""
    texts = [lesson.text for _, lesson in lessons]
    columns = []
    picture = None if document is None else pictured(document)
    if document is not None:
        columns.append(("the document", picture or marked(document, " ".join(texts), "del")))
    else:
        title += " (not where the config names it; marked: what the other lesson lacks)"
    for n, (name, lesson) in enumerate(lessons):
        reference = " ".join(texts[:n] + texts[n + 1 :]) if document is None else document
        unmarked = Markup(escape(lesson.text))
        text = marked(lesson.text, reference, "ins") if reference and picture is None else unmarked
        strategy = f" ({lesson.strategy})" if lesson.strategy else ""
        gain = f", {number(lesson.gain, sign=True)} {in_measure(measure)}" if lesson.gain is not None else ""
        columns.append((f"{name}{strategy}{gain}", text))
    return title, columns


def pictured(text: str) -> Markup | None:
    """The pairs of a task of grids as a picture, each input beside its output; None of any other text."""
    try:
        pairs = read_pairs(text)
    except ValueError:
        return None
    cells, width, top = Markup(), 0, 0
    for pair in pairs:
        left = 0
        for grid in pair:
            for (row, column), colour in np.ndenumerate(grid):
                place = f'x="{left + column}" y="{top + row}" width=".94" height=".94"'
                cells += Markup(f'<rect {place} fill="{PALETTE[colour]}"/>')
            left += grid.shape[1] + 1
        width, top = max(width, left - 1), top + max(len(grid) for grid in pair) + 1
    size = f'width="{width}em" height="{top - 1}em" viewBox="0 0 {width} {top - 1}"'
    return Markup(f'<svg {size} role="img" aria-label="pairs of grids, inputs left">{{}}</svg>').format(cells)


def _document_texts(config: Config, ids: set[str]) -> dict[str, str]:
    """Texts of documents by their training id, as far as the data are still where the config names them. An id names
    its file, and no other is opened."""
    texts: dict[str, str] = {}
    data, cutter = config.data, Cutter(config)
    wholes = {name.partition("/")[0] for name in ids}
    files = {name.rpartition("#")[0] for name in ids}
    for patterns in (data.train, data.heldout):
        try:
            shards = find_shards(patterns) if patterns else []
        except UserError:
            continue
        for shard in shards:
            if PurePosixPath(shard.name).name not in files:
                continue
            for item in read_shard(shard):
                if len(texts) == len(ids):  # shards may be large: stop at the last document that is shown
                    return texts
                if isinstance(item, Document):
                    name = training_id(shard, item.metadata["source_row"], item.text)
                    if name not in wholes:
                        continue
                    item.id = name
                    cut = cutter.cut(item) if name not in ids else [item]
                    texts |= {passage.id: passage.text for passage in cut if passage.id in ids}
    return texts

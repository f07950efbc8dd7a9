"""Documents beside the lessons made of them: where students gained most and least, with what changed marked."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from datatrove.data import Document
from markupsafe import Markup, escape

from configs.errors import UserError
from configs.schema import Config
from curation.corpus.shards import find_shards, read_shard
from curation.corpus.training_data import training_id
from curation.evaluation.records import LESSONS_FILE, EvaluationResult
from curation.report.parts import marked, number
from curation.report.training import Training, place

SEPARATOR = "\n\n"


class Column(NamedTuple):
    """One text of an example."""

    title: str
    text: Markup


class Example(NamedTuple):
    """Texts about one document, side by side."""

    title: str
    columns: Sequence[Column]


class Lesson(NamedTuple):
    """The texts of a lesson, and what its students gained where that is known."""

    document_id: str
    text: str
    strategy: str
    gain: float | None


def examples(run: Training | None, evaluation: EvaluationResult | None, folder: Path) -> list[Example]:
    """Held-out documents first, best and worst of the evaluation, then best and worst of the last step of training."""
    found = _evaluated(evaluation, folder / LESSONS_FILE) if evaluation else []
    if run is None:
        return found
    trained = [line for line in run.rewrites if line["arm"] == "train" and line.get("gain") is not None]
    last = max(map(place, trained), default=None)
    rewarded = _lessons([line for line in trained if place(line) == last])
    before, after = ({lesson.document_id: lesson for lesson in _arm(run, arm)} for arm in ("untrained", "trained"))
    differ = [name for name in before if name in after and before[name].text != after[name].text]
    both = [] if found else differ[:2]
    texts = documents(run.config, {*both, *(lesson.document_id for lesson in _extremes(rewarded))})
    for name in both:
        shown = [("untrained teacher", before[name]), ("trained teacher", after[name])]
        found.append(_beside(f"Held-out, {name}", texts.get(name), shown))
    for which, lesson in zip(("Highest", "Lowest"), _extremes(rewarded), strict=False):
        title = f"{which} gain of the last training step, {lesson.document_id}"
        found.append(_beside(title, texts.get(lesson.document_id), [("the lesson", lesson)]))
    return found


def _extremes(lessons: Sequence[Lesson]) -> list[Lesson]:
    """The lessons of highest and lowest gain; one where all are equal."""
    known = [(lesson.gain, lesson) for lesson in lessons if lesson.gain is not None]
    if not known:
        return []
    best, worst = max(known, key=lambda item: item[0]), min(known, key=lambda item: item[0])
    return [best[1]] if best[0] == worst[0] else [best[1], worst[1]]


def _arm(run: Training, arm: str) -> list[Lesson]:
    return _lessons([line for line in run.rewrites if line["arm"] == arm])


def _lessons(lines: Iterable[Mapping[str, Any]]) -> list[Lesson]:
    """Lines of rewrites.jsonl by the lesson that they were taught in; refused ones taught nothing."""
    sets: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for line in lines:
        if not line.get("rejected"):
            sets.setdefault((line["document_id"], line.get("set", line["sample"])), []).append(line)
    found = []
    for (name, _), own in sets.items():
        gains = [line["gain"] for line in own if line.get("gain") is not None]
        strategies = ", ".join(dict.fromkeys(line["strategy"] for line in own))
        text = SEPARATOR.join(line["text"] for line in own)
        found.append(Lesson(name, text, strategies, sum(gains) / len(gains) if gains else None))
    return found


def _beside(title: str, document: str | None, lessons: Sequence[tuple[str, Lesson]]) -> Example:
    """The document, where it can be found, and its lessons with what each has that the document has not. Without it,
    two lessons are marked against each other."""
    texts = [lesson.text for _, lesson in lessons]
    columns = []
    if document is not None:
        columns.append(Column("the document", marked(document, " ".join(texts), "del")))
    else:
        title += " (not where the config names it; marked: what the other lesson lacks)"
    for n, (name, lesson) in enumerate(lessons):
        others = texts[:n] + texts[n + 1 :]
        reference = " ".join(others) if document is None else document
        text = marked(lesson.text, reference, "ins") if reference else Markup(escape(lesson.text))
        strategy = f" ({lesson.strategy})" if lesson.strategy else ""
        gain = f", {number(lesson.gain, 2, '+')} nats a token" if lesson.gain is not None else ""
        columns.append(Column(f"{name}{strategy}{gain}", text))
    return Example(title, columns)


def _evaluated(evaluation: EvaluationResult, path: Path) -> list[Example]:
    """For each student the held-out documents that the trained teacher's lessons helped most and least, beside the
    untrained teacher's; without a trained one, those of the config's last arm."""
    if not path.is_file():
        return []
    rows = pq.read_table(path).to_pylist()
    found = []
    for label, student in evaluation.students.items():
        others = [name for name in student.arms if name != evaluation.reference]
        arm = "trained" if "trained" in student.arms else others[-1] if others else evaluation.reference
        lessons = {
            (row["arm"], row["document_id"]): Lesson(
                row["document_id"], SEPARATOR.join(row["texts"]), _counted(row["strategies"]), row["gain"]
            )
            for row in rows
            if row["student"] == label
        }
        documents = {row["document_id"]: row["document"] for row in rows}
        own = [lesson for (name, _), lesson in lessons.items() if name == arm]
        for which, lesson in zip(("Highest", "Lowest"), _extremes(own), strict=False):
            before = lessons.get(("untrained", lesson.document_id)) if arm == "trained" else None
            shown = [*([] if before is None else [("untrained", before)]), (arm, lesson)]
            title = f"{which} gain of {label}, held-out, {lesson.document_id}"
            found.append(_beside(title, documents[lesson.document_id], shown))
    return found


def _counted(strategies: Sequence[str]) -> str:
    """`question-answer × 3, copy`."""
    counts = {name: strategies.count(name) for name in strategies}
    return ", ".join(name if n == 1 else f"{name} × {n}" for name, n in counts.items())


def documents(config: Config, wanted: set[str]) -> dict[str, str]:
    """Texts of documents by their training id, as far as the data of the config are still where it names them. An id
    names its file, and no other is opened."""
    found: dict[str, str] = {}
    files = {name.partition("#")[0] for name in wanted}
    for patterns in (config.data.train, config.data.heldout):
        try:
            shards = find_shards(patterns) if patterns else []
        except UserError:
            continue
        for shard in shards:
            if Path(shard.url).name not in files or len(found) == len(wanted):
                continue
            for item in read_shard(shard):
                if isinstance(item, Document):
                    name = training_id(shard, item.metadata["source_row"], item.text)
                    if name in wanted:
                        found[name] = item.text
                        if len(found) == len(wanted):
                            break
    return found

"""`notewright preview --questions`: what was written, kept and refused, with examples."""

from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers.utils.logging import disable_progress_bar

from configs.errors import UserError
from configs.schema import Config
from curation.console.progress import say
from curation.corpus.inputs import check_inputs
from curation.corpus.training_data import read_documents
from teacher.questions.cache import ensure_questions, questions_file, read_lines
from teacher.questions.quality import BY_HAND, Quality

KEPT, REFUSED = 3, 1
"""Examples of the questions of a kind that were kept, and of each reason for which others were refused."""


def print_questions(config: Config, documents: int) -> None:
    """Prints the table of the config's file of questions, and examples. Where there is no such file, questions are
    written for the first `documents` of `data.train`, and not kept. Raises UserError where the config asks for none."""
    if not config.questions.asked_kinds:
        raise UserError("no questions are written: set questions.model, or questions.kinds=[cloze]")
    path = questions_file(config)
    if path.exists():
        lines = read_lines(path)
    else:
        check_inputs(config)
        disable_progress_bar()  # the one shown while weights load
        say(f"{path} is not there: writing questions for {documents} documents")
        read = read_documents(config.data.train, documents, questions_needed=False)
        for document in read:
            document.metadata.pop("questions", None)
        with TemporaryDirectory(prefix="notewright-") as name:
            path = Path(name) / "questions.jsonl"
            elsewhere = config.questions.model_copy(update={"file": path})
            try:
                ensure_questions(config.model_copy(update={"questions": elsewhere}), read, lambda line: None)
            except UserError:
                if not path.exists():
                    raise
            lines = read_lines(path)
    quality = Quality()
    kept: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    refused: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in lines.values():
        quality.count(line["questions"], line["dropped"])
        for item in line["questions"]:
            kept[item.get("kind", BY_HAND)].append(item)
        for item in line["dropped"]:
            reason = str(item.get("reason", "")).partition(":")[0]
            refused[item.get("kind", BY_HAND), reason].append(item)
    print(quality.table())
    for kind, items in kept.items():
        for item in items[:KEPT]:
            print(f"{kind}, {item.get('split', 'no side')}: {_shown(item)}")
    for (kind, _), items in refused.items():
        for item in items[:REFUSED]:
            print(f"{kind}, refused, {item.get('reason')}: {_shown(item)}")


def _shown(item: dict[str, Any]) -> str:
    text = f"{item.get('question', item.get('prompt'))} -> {item.get('answer')}"
    return "".join(c if c.isprintable() else " " for c in text)

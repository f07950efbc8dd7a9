"""A student that can answer at all: all weights are trained on questions with answers, without the passages.

A small pretrained model does not know what a question without its passage asks for, and its gains are then mostly
about the form of an answer. The questions are about other documents than those the teacher is trained and judged on.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.errors import RunError, UserError
from configs.schema import Config
from curation.console.progress import say
from curation.corpus.training_data import read_documents
from student.benchmarks.sources import DocumentQuestions
from student.engine.models import check_model
from student.pools.inline import InlinePool
from student.records import Exam, Job, Lesson, Segment

BATCH_SIZE = 16
EXAM_QUESTIONS = 200
"""Most questions about the config's documents that are asked before and after."""


def warm_up(
    config: Config, model: str, data: str, output: Path, skip: int, limit: int | None, epochs: int, learning_rate: float
) -> dict[str, Any]:
    """Trains `model` on the questions of the documents of `data` (after the first `skip`), with the config's prompt
    template, and saves it in `output`, whole or not at all. The loss is on the answers.

    Returns the gold answers' log-likelihood (nats a token) and accuracy before and after, on questions about the
    documents of the config, which it never saw. Raises UserError, and RunError where training diverged.
    """
    if output.exists():
        raise UserError(f"{output} exists: a warmed-up student is never overwritten")
    check_model("--model", model)
    documents = read_documents((data,), None if limit is None else skip + limit)[skip:]
    parts = ((config.data.train, config.data.limit), (config.data.heldout, config.data.heldout_limit))
    exam_documents = [document for files, limit in parts if files for document in read_documents(files, limit)]
    exam_texts = {document.text for document in exam_documents}
    documents = [document for document in documents if document.text not in exam_texts]
    if not documents:
        raise UserError(f"{data}: no documents beside those of data.train and data.heldout after the first {skip}")
    benchmark = DocumentQuestions(config.student.prompt_template)
    items = [question for document in documents for question in benchmark.exam(document).questions]
    texts = tuple((Segment("prompt", item.prompt), Segment("answer", f" {item.answer}")) for item in items)
    # An exam asks questions of one split; the student has seen neither split.
    exam = [replace(q, split="reward") for document in exam_documents for q in benchmark.exam(document).questions]
    exam = exam[:EXAM_QUESTIONS]
    settings = config.student.model_copy(
        update={
            "model": model, "models": (), "mode": "full", "epochs": epochs, "steps": None, "tokens_per_step": None,
            "texts_per_step": BATCH_SIZE, "learning_rate": learning_rate, "schedule": "cosine", "warmup_steps": 10,
        }
    )  # fmt: skip
    say(f"{len(documents)} documents, {len(texts)} questions, {epochs} epochs of {BATCH_SIZE} a step")
    pool = InlinePool(settings)
    job = Job(lesson=Lesson(texts=texts, loss_on="answer"), exam=Exam(questions=tuple(exam)))
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    outcome = pool.keep(job, partial)
    if outcome.error is not None:
        shutil.rmtree(partial, ignore_errors=True)
        raise RunError(f"the warm-up failed: {outcome.error}; nothing is kept")
    names = ("loglik_before", "loglik_after", "accuracy_before", "accuracy_after")
    figures = {name: round(outcome.metrics[name], 4) for name in names} | {"questions": len(texts), "asked": len(exam)}
    (partial / "warm_up.json").write_text(json.dumps({"base": model, **figures}) + "\n")
    partial.rename(output)
    return figures

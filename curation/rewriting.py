"""The steps of a curation task: a reader of one shard, and the teacher that turns its documents into durable parts."""

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import multiprocess
import torch
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from configs.errors import RunError
from configs.schema import Config
from curation.dataset import part_path, write_part
from curation.documents import Shard, read_shard, training_id
from curation.manifest import die_with_parent, locked
from curation.progress import log_batch, say
from student.records import Question
from teacher.gates import GATES, Gate, build_gates, check
from teacher.strategies import build_prompt, parse_completion, spread, strategy_label
from teacher.writer import TransformersWriter, load_teacher

# datatrove logs every task to stderr, and on a failure also the values of local variables: document texts among them.
# What a user needs to know is said here, and an error reaches them as the exception it is.
logger.disable("datatrove")


@dataclass(frozen=True, slots=True)
class Pen:
    """The teacher as a worker holds it."""

    writer: TransformersWriter
    gates: tuple[Gate, ...]


class ReadShard(PipelineStep):
    """Task `rank` reads the documents of shard `rank`; the rows that are none are in the preflight's records."""

    type = "📖 - READER"
    name = "Shard"

    def __init__(self, shards: list[Shard], limit: int | None):
        super().__init__()
        self.shards, self.limit = shards, limit

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        assert world_size == len(self.shards), "one task a shard"
        shard = self.shards[rank]
        for item in read_shard(shard, self.limit):
            if isinstance(item, Document):
                item.metadata["training_id"] = training_id(shard, item.metadata["source_row"], item.text)
                self.update_doc_stats(item)
                yield item


@lru_cache(maxsize=1)
def load_pen(config: Config, checkpoint: Path | None, items: tuple[Question, ...]) -> Pen:
    """Loads the teacher once a process, whatever the number of its tasks."""
    writer = load_teacher(config, checkpoint)
    return Pen(writer, tuple(build_gates(config, writer.tokenizer, items)))


class RewriteWithTeacher(PipelineStep):
    """Writes a part of terminal records per batch of documents, and yields nothing.

    Batches are the task's documents in order, `teacher.batch_size` at a time, whether or not earlier ones are done; so
    a rerun makes the parts that are missing, with the bytes that they would have had.
    """

    type = "✍️ - TEACHER"
    name = "Rewrite"

    def __init__(
        self, config: Config, checkpoint: Path | None, settings: dict[str, Any], items: list[Question], work: Path
    ):
        super().__init__()
        self.config, self.checkpoint, self.settings, self.work = config, checkpoint, settings, work
        self.items = tuple(items)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        _guard_worker(self.config.curation.workers)
        documents = iter(data)
        # Waits for a worker of a killed run that is not dead yet.
        with locked(self.work / "tasks" / f"{rank:05d}", wait=True):
            batch = 0
            while chunk := list(islice(documents, self.config.teacher.batch_size)):
                path = part_path(self.work / "parts", rank, batch)
                if not path.exists():
                    with self.track_time(unit="batch"):
                        self._write(path, chunk, batch)
                batch += 1
        yield from ()

    def _write(self, path: Path, documents: list[Document], batch: int) -> None:
        records = self.rewrite(documents, batch)
        write_part(path, records)
        kept = [record for record in records if record["reason"] is None]
        tokens = sum(record["tokens"] for record in kept)
        log_batch(
            self.work / "progress.jsonl",
            documents=len(documents),
            rewrites=len(records),
            rows=len(kept),
            tokens=tokens,
        )
        self.stat_update("documents", value=len(documents))
        self.stat_update("rows", value=len(kept))

    def rewrite(self, documents: list[Document], batch: int) -> list[dict[str, Any]]:
        """The terminal records of a batch, `rewrites_per_document` each, in order of document and rewrite."""
        pen = load_pen(self.config, self.checkpoint, self.items)
        teacher, n = self.config.teacher, self.config.curation.rewrites_per_document
        jobs = [
            (document, j, strategy)
            for document in documents
            for j, strategy in enumerate(self._strategies(document, n))
        ]
        limit = pen.writer.max_prompt_tokens
        prompts = [build_prompt(pen.writer.tokenizer, teacher, d, strategy, limit) for d, _, strategy in jobs]
        source = f"{self.settings['seed']} {documents[0].metadata['source_file']} {batch}"
        seed = int.from_bytes(hashlib.sha256(source.encode()).digest()[:4])
        completions = _write_all(pen.writer, prompts, seed)
        return [
            self._record(pen, document, j, strategy, completion, seed)
            for (document, j, strategy), completion in zip(jobs, completions, strict=True)
        ]

    def _strategies(self, document: Document, n: int) -> list[str] | list[None]:
        if self.config.teacher.prompting == "policy":
            return [None] * n
        # Rotated by the row, so that each strategy gets its share also with one rewrite a document.
        return spread(self.config.teacher.strategies, n, offset=document.metadata["source_row"] * n)

    def _record(
        self, pen: Pen, document: Document, j: int, prompted: str | None, completion: str | Exception, seed: int
    ) -> dict[str, Any]:
        teacher, curation, metadata = self.config.teacher, self.config.curation, document.metadata
        record = {
            "id": document.id if curation.rewrites_per_document == 1 else f"{document.id}/{j}",
            "source_id": metadata["source_id"],
            "source_file": metadata["source_file"],
            "source_row": metadata["source_row"],
            "rewrite": j,
            "teacher": self.settings["teacher_name"],
            "teacher_hash": self.settings["teacher_hash"],
            "temperature": teacher.temperature,
            "seed": seed,
            "licence": str(metadata.get("licence") or metadata.get("license") or curation.licence),
            "source_tokens": pen.writer.count_tokens(document.text),
        }
        if isinstance(completion, Exception):
            return record | {"stage": "teacher", "reason": f"{type(completion).__name__}: {completion}"[:300]}
        known = [strategy_label(s) for s in teacher.strategies] if prompted is None else [prompted]
        strategy, text = parse_completion(teacher.prompting, completion, known)
        # The benchmark's items know their documents by the ids of training.
        reason = check(Document(document.text, metadata["training_id"], metadata=metadata), text, pen.gates)
        record |= {"text": text, "strategy": strategy, "tokens": pen.writer.count_tokens(text), "gates": GATES}
        return record | {"stage": reason and "gate", "reason": reason}


def _write_all(writer: TransformersWriter, prompts: list[str], seed: int) -> list[str | Exception]:
    """One completion a prompt. If the batch fails its prompts are tried one by one, and an error stands in the place of
    those that fail again; if all do it is the teacher that is at fault, and RunError is raised."""
    try:
        return [texts[0] for texts in writer.write(prompts, 1, seed)]
    except (RuntimeError, ValueError, IndexError) as error:
        say(f"the teacher failed on a batch of {len(prompts)} ({type(error).__name__}); trying one at a time")
    results: list[str | Exception] = []
    for prompt in prompts:
        try:
            results.append(writer.write([prompt], 1, seed)[0][0])
        except (RuntimeError, ValueError, IndexError) as error:
            results.append(error)
    if len(results) > 1 and all(isinstance(result, Exception) for result in results):
        raise RunError(
            f"the teacher fails on every document of a batch ({type(results[0]).__name__}: {results[0]}); finished "
            "batches are kept, the same command goes on from there"
        )
    return results


def _guard_worker(workers: int) -> None:
    parent = multiprocess.parent_process()
    if parent is None:
        return
    die_with_parent()
    if os.getppid() != parent.pid:
        # It died before the line above.
        os._exit(1)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))

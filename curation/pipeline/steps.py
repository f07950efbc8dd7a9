"""The steps of a curation task: a reader of one shard, and the teacher that turns its documents into durable parts."""

import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from configs.errors import RunError
from configs.files import locked
from configs.schema import Config
from configs.seeds import stable_seed
from curation.console.progress import log_batch
from curation.corpus.decontaminate import BenchmarkIndex
from curation.corpus.filters import Cleaner, Refusal, licence_of
from curation.corpus.shards import SNIPPET_CHARACTERS, Shard, read_shard
from curation.corpus.training_data import training_id
from curation.pipeline.dataset import RAW, part_documents, part_path, write_part
from curation.pipeline.dedup import Verdicts, verdicts_of
from curation.pipeline.rewriter import (
    Rewriter,
    RewriteRequest,
    Written,
    load_rewriter,
    rewrite_requests,
    rewriter_gates,
    write,
)
from student.records import Question
from teacher.gates.text import overlap_shares
from teacher.sampling import make_rewrite

MOST_REFUSED = 1000
"""A batch ends after so many refused documents, however few are left for the teacher."""

Record = dict[str, Any]


class ReadShard(PipelineStep):
    """Task `rank` reads the documents of shard `rank`; the rows that are none are in the preflight's records.

    `documents` are the numbers of preflight, a shard each: where a shard gives another number (its store failed for a
    while), RunError is raised in place of its end, so that what follows does not take the break for the end.
    """

    type = "📖 - READER"
    name = "Shard"

    def __init__(self, shards: list[Shard], limit: int | None, documents: list[int] | None = None):
        super().__init__()
        self.shards, self.limit, self.documents = shards, limit, documents

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        assert world_size == len(self.shards), "one task a shard"
        shard, read, broken = self.shards[rank], 0, ""
        for item in read_shard(shard, self.limit):
            if not isinstance(item, Document):
                broken = item.reason if item.row is None else broken
            else:
                read += 1
                item.metadata["training_id"] = training_id(shard, item.metadata["source_row"], item.text)
                self.update_doc_stats(item)
                yield item
        if self.documents is not None and read != self.documents[rank]:
            raise RunError(
                f"{shard.name} gave {read} documents, and {self.documents[rank]} when it was checked"
                f"{f' ({broken})' if broken else ''}: once it can be read again, the same command goes on from there"
            )


class RewriteWithTeacher(PipelineStep):
    """Writes a part of terminal records per batch of documents, and yields nothing.

    Batches are the task's documents in order, `teacher.batch_size` for the teacher at a time and the refused ones
    between them, whether or not earlier ones are done; so a rerun makes the parts that are missing, with the bytes that
    they would have had.
    """

    type = "✍️ - TEACHER"
    name = "Rewrite"

    def __init__(
        self,
        config: Config,
        checkpoint: Path | None,
        settings: dict[str, Any],
        items: list[Question],
        shards: list[Shard],
        work: Path,
    ):
        super().__init__()
        self.config, self.checkpoint, self.settings, self.work = config, checkpoint, settings, work
        self.items, self.shards, self.gates = tuple(items), shards, rewriter_gates(config)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        # Waits for a worker of a killed run that is not dead yet.
        with locked(self.work / "tasks" / f"{rank:05d}", wait=True), self.new_cleaner() as cleaner:
            finished = self._finished(rank)
            done = sum(part_documents(path) for path in finished)
            self.index = BenchmarkIndex(self.config)
            verdicts = None if self.config.curation.dedup == "none" else verdicts_of(self.work, rank)
            rest = islice(iter(data), done, None)
            for batch, (kept, refused) in enumerate(self._batches(rest, cleaner, verdicts), start=len(finished)):
                with self.track_time(unit="batch"):
                    self._write(part_path(self.work / "parts", rank, batch), kept, refused, batch)
        yield from ()

    def new_cleaner(self) -> Cleaner:
        """The filters of the config."""
        curation = self.config.curation
        return Cleaner(curation.filters, curation.language, curation.licence, curation.allow_unknown_licence)

    def _finished(self, rank: int) -> list[Path]:
        """The parts that are there: a task writes them one after the other."""
        paths = sorted((self.work / "parts" / f"{rank:05d}").glob("*.parquet"))
        assert [p.stem for p in paths] == [f"{i:06d}" for i in range(len(paths))], f"parts of task {rank} have a hole"
        return paths

    def _batches(
        self, documents: Iterator[Document], cleaner: Cleaner, verdicts: Verdicts | None
    ) -> Iterator[tuple[list[Document], list[Record]]]:
        """The documents for the teacher, and the records of those that do not reach it."""
        kept: list[Document] = []
        refused: list[Record] = []
        for document in documents:
            if (refusal := self.refusal(document, cleaner, verdicts)) is None:
                kept.append(document)
            else:
                refused.append(self._refused(document, refusal))
            if len(kept) == self.config.teacher.batch_size or len(refused) == MOST_REFUSED:
                yield kept, refused
                kept, refused = [], []
        if kept or refused:
            yield kept, refused

    def refusal(self, document: Document, cleaner: Cleaner, verdicts: Verdicts | None = None) -> Refusal | None:
        """Why a document does not reach the teacher; changes its text as the filters do. `verdicts` are dedup's."""
        row = document.metadata["source_row"]
        passed = verdicts is not None and row not in verdicts.refused
        if (refusal := cleaner.clean(document, passed=passed)) is not None:
            return refusal
        if verdicts is not None and (first := verdicts.repeats.get(row)) is not None:
            return Refusal("filter", "duplicate", f"{self.shards[first[0]].name}#{first[1]}")
        if self.config.curation.decontaminate and (benchmark := self.index.carried_by(document.text)) is not None:
            return Refusal("filter", "contaminated", benchmark)
        return None

    def _write(self, path: Path, kept: list[Document], refused: list[Record], batch: int) -> None:
        records = self.rewrite(kept, batch)
        rows = [record for record in records if record["reason"] is None]
        # How often texts repeat themselves, in the window of a batch, beside how often their sources do.
        texts = "\n".join(row["text"] for row in rows).encode()
        sources = "\n".join(document.text for document in kept).encode()
        sizes = {"text_bytes": len(texts), "text_packed": len(zlib.compress(texts))}
        sizes |= {"source_bytes": len(sources), "source_packed": len(zlib.compress(sources))}
        write_part(path, refused + records, documents=len(kept) + len(refused), **sizes)
        log_batch(
            self.work / "progress.jsonl",
            documents=len(kept) + len(refused),
            rewrites=len(records),
            rows=len(rows),
            tokens=sum(row["tokens"] for row in rows),
            failed=sum(record["stage"] == "teacher" for record in records),
            source_tokens=sum(record["source_tokens"] for record in records if record["rewrite"] == 0),
        )
        self.stat_update("documents", value=len(kept) + len(refused))
        self.stat_update("rows", value=len(rows))

    def rewrite(self, documents: list[Document], batch: int) -> list[Record]:
        """The terminal records of a batch, in the order of its documents: `rewrites_per_document` each, then the
        document's own text where it is mixed in."""
        if not documents:
            return []
        rewriter = load_rewriter(self.config, self.checkpoint, self.items)
        seed = stable_seed(self.settings["seed"], documents[0].metadata["source_file"], batch)
        requests = rewrite_requests(self.config, documents)
        prompts, written = write(rewriter, self.config, requests, seed)
        n = self.config.curation.rewrites_per_document
        lines = list(zip(requests, prompts, written, strict=True))
        records: list[Record] = []
        for index, document in enumerate(documents):
            source = self._source(document, rewriter)
            accepted: list[str] = []
            for request, prompt, completion in lines[index * n : (index + 1) * n]:
                record = source | {"seed": seed} | self._rewritten(rewriter, request, prompt, completion, accepted)
                if record["reason"] is None:
                    accepted.append(record["text"])
                records.append(record)
            if self._keeps_raw(document):
                records.append(self._raw(document, source))
        return records

    def _source(self, document: Document, rewriter: Rewriter) -> Record:
        """What all records of a document say."""
        names = ("source_id", "source_file", "source_row")
        return {name: document.metadata[name] for name in names} | {
            "licence": licence_of(document, self.config.curation.licence),
            "source_tokens": rewriter.count_tokens(document.text),
            "stage": None,
            "reason": None,
            "detail": None,
        }

    def _rewritten(
        self, rewriter: Rewriter, request: RewriteRequest, prompt: str, completion: Written, accepted: list[str]
    ) -> Record:
        teacher, document, settings = self.config.teacher, request.document, self.settings
        echo = rewriter.writer is None
        record: Record = {
            "id": document.id if self.config.curation.rewrites_per_document == 1 else f"{document.id}/{request.number}",
            "rewrite": request.number,
            "teacher": settings["teacher_name"],
            "teacher_hash": settings["teacher_hash"],
            "adapter_hash": settings["adapter_hash"],
            "temperature": None if echo else teacher.temperature,
            "top_p": None if echo else teacher.top_p,
            "max_new_tokens": None if echo else teacher.max_new_tokens,
        }
        if isinstance(completion, Exception):
            return record | {"stage": "teacher", "reason": f"{type(completion).__name__}: {completion}"[:300]}
        # The benchmark's items know their documents by the ids of training.
        known = Document(document.text, document.metadata["training_id"], metadata=document.metadata)
        way = request.strategy or ""
        how = teacher.model_copy(update={"prompting": "strategy"}) if echo else teacher
        made = make_rewrite(how, known, prompt, completion, way, rewriter.gates)
        text = made.text
        record |= {"text": text, "strategy": made.strategy, "tokens": rewriter.count_tokens(text), "gates": self.gates}
        reason = made.rejected or self._overlap(text, accepted)
        return record | ({"stage": "gate", "reason": reason} if reason else self._leak(text))

    def _overlap(self, text: str, accepted: list[str]) -> str | None:
        if not accepted:
            return None
        repeated = text in accepted or overlap_shares([text, *accepted])[0] > self.config.curation.max_overlap
        return "overlap" if repeated else None

    def _leak(self, text: str) -> Record:
        benchmark = self.index.carried_by(text)
        return {"stage": "leak_check", "reason": "leak_check", "detail": benchmark} if benchmark else {}

    def _keeps_raw(self, document: Document) -> bool:
        return stable_seed(self.settings["seed"], RAW, document.id) / 2**31 < self.config.curation.keep_raw

    def _raw(self, document: Document, source: Record) -> Record:
        record = {"id": f"{document.id}/{RAW}", "rewrite": None, "strategy": RAW, "text": document.text, "gates": []}
        return source | record | {"tokens": source["source_tokens"]} | self._leak(document.text)

    def _refused(self, document: Document, refusal: Refusal) -> Record:
        """The record of a document that did not reach the teacher."""
        # The two steps before masking; and a text with credentials is nothing to keep.
        hidden = refusal.reason.startswith(("unknown_licence", "extract", "ftfy", "secrets"))
        names = ("source_id", "source_file", "source_row")
        return {name: document.metadata[name] for name in names} | {
            "id": document.id,
            "rewrite": None,
            "text": "" if hidden else document.text[:SNIPPET_CHARACTERS],
            "licence": licence_of(document, self.config.curation.licence),
            "stage": refusal.stage,
            "reason": refusal.reason,
            "detail": refusal.detail,
        }

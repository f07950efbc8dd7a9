"""The step of a curation task that makes durable parts of its documents: filters, passages, teacher, gates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from configs.errors import RunError
from configs.files import Record, locked
from configs.seeds import stable_seed
from curation.console.progress import log_batch
from curation.corpus.filters import Cleaner, Refusal
from curation.corpus.inputs import model_writes
from curation.corpus.licences import licence_of, strictest
from curation.corpus.passages import Cutter
from curation.corpus.related import Neighbours, put_beside, span_of
from curation.corpus.shards import SNIPPET_CHARACTERS
from curation.pipeline.dataset import NO_TEACHER, RAW, part_numbers, part_path, parts_of, write_part
from curation.pipeline.dedup import Verdicts, read_verdicts
from curation.pipeline.diversity import CHARACTERS, is_sampled
from curation.pipeline.inputs import CurationInputs
from curation.pipeline.rewriter import (
    Rewriter,
    RewriteRequest,
    Written,
    kinds_of,
    load_rewriter,
    rewrite_requests,
    write,
)
from student.records import StudentPool, passage_of, whole_id
from student.text.words import EarlierTexts
from teacher.gates.checks import KINDS, check, gate_names
from teacher.prompting.related import related_of
from teacher.prompting.strategies import by_label, reads_related
from teacher.ready.texts import ReadyTexts
from teacher.reward.best_of import FittedScreen
from teacher.reward.signs import Texts
from teacher.sampling import make_rewrite

SAMPLED_WITH = ("top_p", "max_new_tokens")
"""The teacher's settings that a row holds."""
INDEX = "related.sqlite"
"""In the work folder: where related passages are looked for."""


@dataclass(slots=True)
class _Batch:
    """What becomes a part: passages and whole documents for the teacher, and what does not reach it."""

    kept: list[Document] = field(default_factory=list)
    refused: list[Record] = field(default_factory=list)
    documents: int = 0
    """Documents that end in it."""
    begun: int = 0
    """Passages of the next document that are in it and in the parts before."""


def _as_trained(document: Document) -> Document:
    """The document under the id that it has in training: the gate `leak` knows the owners of its items by those."""
    name, metadata = document.metadata["training_id"], document.metadata
    if (passage := passage_of(document)) is None:
        return Document(document.text, name, metadata=metadata)
    metadata = metadata | {"passage": replace(passage, document_id=name)}
    return Document(document.text, f"{name}/{passage.number}", metadata=metadata)


def _predict(
    documents: Sequence[Document],
    drafts: Sequence[Sequence[Record]],
    screen: FittedScreen,
    students: StudentPool | None,
) -> None:
    """Adds what is predicted of drafts that passed the gates, among those for the same rewrite; of one alone nothing
    can be."""
    passed = [[draft for draft in of_one if draft["reason"] is None] for of_one in drafts]
    groups = [
        Texts(document, tuple(draft["text"] for draft in of_one))
        for document, of_one in zip(documents, passed, strict=True)
    ]
    found = screen.read(groups, [[draft["strategy"] for draft in of_one] for of_one in passed], students)
    for of_one, signs in zip(passed, found, strict=True):
        rewrites: dict[int, list[int]] = {}
        for i, draft in enumerate(of_one):
            rewrites.setdefault(draft["rewrite"], []).append(i)
        for members in rewrites.values():
            for i, (gain, error) in zip(members, screen.predict([signs[i] for i in members]), strict=True):
                if len(members) > 1:
                    ends = {"predicted_low": gain - error, "predicted_high": gain + error}
                    of_one[i] |= {"predicted_gain": gain} | ends


class RewriteWithTeacher(PipelineStep):
    """Cuts documents into passages, writes a part of terminal records per batch of them, and yields nothing.

    Batches are the task's passages in order: `teacher.batch_size` for the teacher, with the refused documents between
    them. A long document may begin in one part and end in a later one. Batches do not depend on which parts exist
    already, so a rerun makes the missing parts with the bytes that an undisturbed run would have written.
    """

    type = "✍️ - TEACHER"
    name = "Rewrite"

    def __init__(self, inputs: CurationInputs):
        super().__init__()
        self.inputs = inputs

    @cached_property
    def cutter(self) -> Cutter:
        """What cuts documents into passages and counts their tokens."""
        return Cutter(self.inputs.config, model_writes(self.inputs.config))

    @cached_property
    def neighbours(self) -> Neighbours | None:
        """Where passages of other documents are looked for; None where no strategy reads one."""
        path = self.inputs.work / INDEX
        return Neighbours.at(path) if path.exists() else None

    @cached_property
    def reads_related(self) -> bool:
        """Whether a strategy reads a related passage."""
        return any(map(reads_related, self.inputs.config.teacher.strategies))

    def passages(self, document: Document) -> list[Document]:
        """The document's passages, each with the one that is read beside it where a strategy does so."""
        passages = self.cutter.cut(document)
        if self.reads_related:
            put_beside(passages, self.neighbours, self.licence(document))
        return passages

    def licence(self, document: Document) -> str:
        """The document's licence, or the one that the config says."""
        return licence_of(document.metadata, self.inputs.config.curation.licence)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        config, work = self.inputs.config, self.inputs.work
        # The lock waits for a worker of a killed run that is still dying.
        with locked(work / "tasks" / f"{rank:05d}", wait=True), Cleaner(config.curation) as cleaner:
            finished = parts_of(work / "parts", rank)
            done = sum(part_numbers(path)["documents"] for path in finished)
            begun = part_numbers(finished[-1])["begun"] if finished else 0
            verdicts = None if config.curation.dedup == "none" else read_verdicts(work, rank)
            batches = self._batches(islice(iter(data), done, None), cleaner, verdicts, begun)
            for number, batch in enumerate(batches, start=len(finished)):
                with self.track_time(unit="batch"):
                    self._write(part_path(work / "parts", rank, number), batch, number)
        yield from ()

    def _batches(
        self, documents: Iterator[Document], cleaner: Cleaner, verdicts: Verdicts | None, begun: int
    ) -> Iterator[_Batch]:
        """What is left to be done; `begun` passages of the first of the documents are done already."""
        batch, full = _Batch(), self.inputs.config.teacher.batch_size
        for document in documents:
            if (refusal := self.refusal(document, cleaner, verdicts)) is not None:
                # A filter with a time limit, such as `extract`, may refuse what it let pass before.
                if begun:
                    raise RunError(
                        f"{document.id} is refused now ({refusal.reason}), and its first {begun} passages are written "
                        "already: run the same command again; if it says so again, delete the output folder first"
                    )
                batch.refused.append(self._refused(document, refusal))
                batch.documents += 1
                # This limit bounds memory where few documents are for the teacher.
                if len(batch.refused) == 1000:
                    yield batch
                    batch = _Batch()
                continue
            passages = self.passages(document)
            for number, passage in enumerate(passages[begun:], start=begun + 1):
                batch.kept.append(passage)
                ends = number == len(passages)
                batch.documents, batch.begun = batch.documents + ends, 0 if ends else number
                if len(batch.kept) == full:
                    yield batch
                    batch = _Batch()
            begun = 0
        if batch.documents:
            yield batch

    def refusal(self, document: Document, cleaner: Cleaner, verdicts: Verdicts | None = None) -> Refusal | None:
        """Why a document does not reach the teacher, or None. Changes its text as the filters do."""
        row = document.metadata["source_row"]
        known_to_pass = verdicts is not None and row not in verdicts.refused
        if (refusal := cleaner.clean(document, known_to_pass=known_to_pass)) is not None:
            return refusal
        if verdicts is not None and (first := verdicts.repeats.get(row)) is not None:
            return Refusal("filter", "duplicate", f"{self.inputs.shards[first[0]].name}#{first[1]}")
        decontaminate = self.inputs.config.curation.decontaminate
        if decontaminate and (benchmark := self.inputs.index.benchmark_in(document.text)) is not None:
            return Refusal("filter", "contaminated", benchmark)
        return None

    def _write(self, path: Path, batch: _Batch, number: int) -> None:
        kept, refused = batch.kept, batch.refused
        records = self.rewrite(kept, number)
        rows = [record for record in records if record["reason"] is None]
        # What went in, counted without the records: the merger compares.
        tokens = sum(self.cutter.count(document.text) for document in kept)
        tokens += sum(record["source_tokens"] for record in refused)
        numbers = {"documents": batch.documents, "begun": batch.begun, "passages": len(kept) + len(refused)}
        write_part(path, refused + records, **numbers, source_tokens=tokens)
        log_batch(
            self.inputs.work / "progress.jsonl",
            documents=batch.documents,
            rewrites=len(records),
            rows=len(rows),
            tokens=sum(row["tokens"] for row in rows),
            failed=sum(record["stage"] == "teacher" for record in records),
            source_tokens=sum(record["source_tokens"] for record in records if record["rewrite"] == 0),
        )
        self.stat_update("documents", value=batch.documents)
        self.stat_update("rows", value=len(rows))

    def load_rewriter(self) -> Rewriter:
        """The teacher; loaded by the first call in a process."""
        return load_rewriter(self.inputs)

    def rewrite(self, documents: list[Document], batch: int) -> list[Record]:
        """The terminal records of a batch, in the order of its passages and whole documents: `rewrites_per_document`
        each, then the own text where it is mixed in."""
        if not documents:
            return []
        curation, teacher = self.inputs.config.curation, self.inputs.config.teacher
        run_seed = self.inputs.settings["seed"]
        rewriter = self.load_rewriter()
        seed = stable_seed(run_seed, documents[0].metadata["source_file"], batch)
        requests = rewrite_requests(curation, teacher, documents, run_seed)
        cut = self.inputs.config.data.passage_tokens is None
        written = zip(requests, write(rewriter, teacher, requests, seed, cut=cut), strict=True)
        drafts: list[list[Record]] = []
        for document in documents:
            source = self._source(document) | {"source_tokens": self.cutter.count(document.text), "seed": seed}
            if is_sampled(source["source_file"], source["source_row"], self.inputs.documents):
                source["source_text"] = document.text[:CHARACTERS]
            ready: dict[str | None, ReadyTexts] = {}
            drafts.append([])
            for request, answered in islice(written, curation.rewrites_per_document * curation.best_of):
                texts = ready.setdefault(request.window, ReadyTexts(_as_trained(request.document), seed))
                drafts[-1].append(source | self._rewritten(rewriter, request, answered, texts))
        if self.inputs.screen is not None:
            _predict(documents, drafts, self.inputs.screen, rewriter.students)
        records: list[Record] = []
        for document, of_document in zip(documents, drafts, strict=True):
            accepted = EarlierTexts()
            for start in range(0, len(of_document), curation.best_of):
                record = self._kept(of_document[start : start + curation.best_of], accepted)
                if record["reason"] is None:
                    accepted.add(record["text"])
                elif curation.rows == "document" and passage_of(document) is not None:
                    record["stands_in"] = None if self._leaks(rewriter, document) else document.text
                records.append(record)
            # Drawn by a hash of the id, so that the choice does not depend on batches, nor on the passage.
            if stable_seed(run_seed, RAW, whole_id(document)) / 2**31 < curation.keep_raw:
                raw = {"id": f"{document.id}/{RAW}", "rewrite": None, "strategy": RAW, "text": document.text}
                raw |= dict.fromkeys(("tokens", "source_tokens"), of_document[0]["source_tokens"]) | {"gates": []}
                raw["source_text"] = of_document[0].get("source_text")
                records.append(self._source(document) | raw | self._leaks(rewriter, document))
        return records

    def _leaks(self, rewriter: Rewriter, document: Document) -> Record:
        """Why the source's own text may not stand in the dataset; nothing where it may."""
        leaks = check(_as_trained(document), document.text, rewriter.leak_gates)
        return {"stage": "gate", "reason": leaks} if leaks else self._leak(document.text)

    def _source(self, document: Document) -> Record:
        """What all records of a passage or whole document have in common."""
        names, passage = ("source_id", "source_file", "source_row"), passage_of(document)
        place: Record = {"passage": 1, "passages": 1, "start_index": 0, "end_index": len(document.text), "headings": ()}
        if passage is not None:
            place = {"passage": passage.number, "passages": passage.of, "headings": passage.headings}
            place |= {"start_index": passage.start_index, "end_index": passage.end_index}
        return (
            {name: document.metadata[name] for name in names}
            | place
            | self._sources(document)
            | dict.fromkeys(("strategy", "stage", "reason", "detail"))
        )

    def _sources(self, document: Document, strategy: str = "", window: int = 0) -> Record:
        """What a text of this strategy is made of, and its licence. The document's text may begin `window` characters
        after its passage."""
        start, licence = span_of(document)[0] + window, self.licence(document)
        end = start + len(document.text)
        sources = [{"id": document.id, "start_index": start, "end_index": end, "licence": licence}]
        if (related := related_of(document)) is not None and reads_related(strategy):
            sources.append({name: getattr(related, name) for name in sources[0]})
            combined = strictest([licence, related.licence])
            assert combined is not None, "what is beside a passage can be combined with it"
            licence = combined
        return {"sources": sources, "licence": licence}

    def _rewritten(self, rewriter: Rewriter, request: RewriteRequest, written: Written, ready: ReadyTexts) -> Record:
        """The record of a text, as far as it can be told without the other texts of its document."""
        config, settings, document = self.inputs.config, self.inputs.settings, request.document
        teacher, by_model = config.teacher, bool(written.prompts)
        # The echo is the teacher of its own rows.
        name = settings["teacher_name"] if by_model or not model_writes(config) else NO_TEACHER
        record: Record = {
            "id": document.id if config.curation.rewrites_per_document == 1 else f"{document.id}/{request.number}",
            "rewrite": request.number,
            "teacher": name,
            **{name: settings[name] if by_model else None for name in ("teacher_hash", "adapter_hash")},
            **{name: getattr(teacher, name) if by_model else None for name in SAMPLED_WITH},
            "temperature": request.temperature if by_model else None,
            "continuations": sum(one.continuations for one in written.completions) if by_model else None,
            "window": request.window,
            **self._sources(document, request.strategy or "", request.start),
        }
        if written.too_long:
            return record | {"teacher": settings["teacher_name"], "stage": "prompt", "reason": "prompt_too_long"}
        if (error := next((one.error for one in written.completions if one.error is not None), None)) is not None:
            return record | {"stage": "teacher", "reason": f"{type(error).__name__}: {error}"[:300]}
        rewrite = make_rewrite(
            teacher, ready, written.prompts, written.completions, request.strategy or "", rewriter.gates
        )
        text = rewrite.text
        record |= {"text": text, "strategy": rewrite.strategy, "tokens": rewriter.count_tokens(text)}
        chosen = by_label(rewrite.strategy, teacher.strategies)
        record["gates"] = gate_names(config.gates, kinds_of([chosen]) if chosen is not None else KINDS)
        return record | ({"stage": "gate", "reason": rewrite.rejected} if rewrite.rejected else self._leak(text))

    def _kept(self, drafts: list[Record], accepted: EarlierTexts) -> Record:
        """The draft of a rewrite that is predicted best of those that pass beside the document's `accepted` texts;
        where none passes, the first that a gate refused, or the first of all."""
        passed = sorted((d for d in drafts if d["reason"] is None), key=lambda d: -(d.get("predicted_gain") or 0.0))
        refused = [draft for draft in drafts if draft["reason"] is not None]
        for draft in passed:
            if not accepted.repeated(draft["text"], self.inputs.config.curation.max_overlap):
                return draft
            refused.append(draft | {"stage": "gate", "reason": "overlap"})
        return min(refused, key=lambda draft: draft["stage"] == "teacher")

    def _leak(self, text: str) -> Record:
        benchmark = self.inputs.index.benchmark_in(text)
        return {"stage": "leak_check", "reason": "leak_check", "detail": benchmark} if benchmark else {}

    def _refused(self, document: Document, refusal: Refusal) -> Record:
        """The record of a document that did not reach the teacher."""
        # Before the filter `pii` a text may hold addresses, and a text with credentials is not kept at all.
        hidden = refusal.reason.startswith(("unknown_licence", "extract", "ftfy", "secrets"))
        text = "" if hidden else document.text[:SNIPPET_CHARACTERS]
        tokens = self.cutter.count(document.text)
        record = {"id": document.id, "rewrite": None, "text": text, "source_tokens": tokens}
        return self._source(document) | record | refusal._asdict()

"""The texts of every arm: sampled once and kept on disk, or read from a file that the user brings.

What was sampled is kept as `evaluation/texts/<arm>-<hash>.json`; the hash names all that it depends on (teacher,
settings, documents, numbers), so that an interrupted evaluation finds it again and a changed one does not.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from configs.errors import UserError
from configs.schema import Config
from configs.seeds import stable_seed
from curation.evaluation.arms import Arm
from curation.scoring.rewrite_file import RAW, RewriteLine, read_rewrite_file
from student.benchmarks.sources import DocumentQuestions
from student.plans import TaughtText
from student.records import Document, Question
from teacher.gates.checks import build_gates, check
from teacher.records import Rewrite, Writer
from teacher.sampling import Sampling, kept_rewrites, sample_rewrites
from teacher.writers.local import load_teacher
from teacher.writers.no_model import NoModel

Groups = list[list[Rewrite]]
"""The rewrites of each document, in the order of the documents."""


class LessonTexts:
    """The texts of an evaluation's arms; a teacher is loaded when it has something to write."""

    def __init__(self, config: Config, documents: Sequence[Document], secret_items: Sequence[Question]) -> None:
        """The gates refuse a text that carries one of `secret_items`, also one of a file that the user brings."""
        self.config, self.documents, self.secret_items = config, list(documents), list(secret_items)
        self._writers: dict[Path | None, Writer] = {}

    def of(self, arm: Arm, checkpoint: Path | None = None) -> Groups:
        """The arm's rewrites, more than the lesson holds where the arm has a scaling curve. `checkpoint` is the trained
        teacher's (None: the untrained one is the best). Raises UserError."""
        match arm.kind:
            case "none":
                return [[] for _ in self.documents]
            case "raw" | "repeated":
                return [[_as_rewrite(document, arm.kind, document.text)] for document in self.documents]
            case "file":
                return self._read_file(Path(arm.value))
        rewrites = self.config.rl.rewrites_per_lesson
        if arm.chosen:
            rewrites *= int(arm.value or len(self.config.teacher.strategies))
        elif arm.scaled:
            rewrites = max(rewrites, *self.config.evaluation.scaling)
        checkpoint = checkpoint if arm.kind == "trained" else None
        # A checkpoint is known by its weights: a run that was trained anew in the same folder is another teacher.
        weights = hashlib.sha256()
        for file in sorted(checkpoint.glob("*.safetensors")) if checkpoint else ():
            weights.update(file.read_bytes())
        more = {
            "arm": [arm.texts_of, arm.kind, arm.value],
            "rewrites": rewrites,
            "checkpoint": weights.hexdigest()[:16] if checkpoint else None,
            "ensemble": self.config.evaluation.ensemble,
        }
        name = arm.texts_of.replace("/", "-").replace(":", "-")
        path = self.config.run.dir / "evaluation" / "texts" / name
        strategies = arm.strategies(self.config.evaluation, self.config.teacher)
        write = partial(self._write, arm, rewrites, checkpoint)
        return kept_rewrites(path, self.config, self.documents, strategies, self.secret_items, more, write)

    def _write(self, arm: Arm, rewrites: int, checkpoint: Path | None) -> Groups:
        """A teacher writes at its evaluation temperature; one is in memory at a time."""
        settings, teacher = self.config.evaluation, self.config.teacher
        if not arm.needs_model(settings, teacher):
            writer: Writer = NoModel(teacher.model_copy(update={"prompting": "strategy"}))
        else:
            if checkpoint not in self._writers:
                self._writers.clear()
                self._writers[checkpoint] = load_teacher(teacher, checkpoint).at(teacher.evaluation_temperature)
            writer = self._writers[checkpoint]
        strategies = arm.strategies(settings, teacher) if arm.kind in ("strategy", "ensemble", "oracle") else None
        # A policy teacher chooses its strategy itself, unless it is dealt one, as in exploration.
        dealt = strategies is not None and writer.settings.prompting == "policy"
        # All arms have the same random numbers: the trained teacher differs from the untrained one in what it learnt.
        sampling = Sampling(
            rewrites=rewrites, seed=stable_seed(self.config.run.seed, "evaluate"), strategies=strategies,
            explore=float(dealt),
        )  # fmt: skip
        gates = build_gates(
            self.config.gates, writer.settings, writer.tokenizer, self.secret_items, self.config.student.prompt_template
        )
        return sample_rewrites(writer, self.documents, sampling, gates)

    def _read_file(self, path: Path) -> Groups:
        """The rewrites of a file in the format of `notewright score`. Documents are matched by their texts, since
        reading a document gives it a new id."""
        lines = read_rewrite_file(path, DocumentQuestions(self.config.student.prompt_template))
        by_text = {line.texts[RAW]: line for line in lines if isinstance(line, RewriteLine)}
        missing = [document for document in self.documents if document.text not in by_text]
        if missing:
            raise UserError(
                f"{path}: no line with the text and rewrites of {len(missing)} of {len(self.documents)} documents, the"
                f" first is {missing[0].id!r}"
            )
        gates = build_gates(
            self.config.gates,
            self.config.teacher,
            None,
            self.secret_items,
            self.config.student.prompt_template,
            ["leak"],
        )
        return [
            [
                replace(_as_rewrite(document, path.stem, text), rejected=check(document, text, gates))
                for key, text in by_text[document.text].texts.items()
                if key != RAW
            ]
            for document in self.documents
        ]


def _as_rewrite(document: Document, strategy: str, text: str) -> Rewrite:
    return Rewrite(document_id=document.id, strategy=strategy, text=text, completion=text, prompt="")


def taught_texts(groups: Groups, rewrites: int) -> dict[str, list[TaughtText]]:
    """By document the texts of the first `rewrites` rewrites, without those that a gate refused."""
    return {
        group[0].document_id: [r.taught for r in group[:rewrites] if r.rejected is None] for group in groups if group
    }


def choose_best(groups: Groups, lesson_size: int, values: Sequence[Sequence[float]]) -> Groups:
    """Each document's lesson of `lesson_size` rewrites with the highest of the rewrites' `values`, the
    first of equals."""
    chosen: Groups = []
    for group, group_values in zip(groups, values, strict=True):
        best = group_values.index(max(group_values)) // lesson_size * lesson_size
        chosen.append(group[best : best + lesson_size])
    return chosen

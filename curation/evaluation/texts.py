"""The texts of every arm: sampled once and kept on disk, or read from a file that the user brings.

What was sampled is kept as `evaluation/texts/<arm>-<hash>.json`; the hash names all that it depends on (teacher,
settings, documents, numbers), so that an interrupted evaluation finds it again and a changed one does not.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from configs.errors import UserError
from configs.schema import Config
from configs.seeds import stable_seed
from curation.evaluation.arms import ArmLine, scaling_lines
from curation.scoring.rewrite_file import RewriteLine, read_items
from student.benchmarks.sources import DocumentQuestions
from student.records import Document, Question
from teacher.gates.checks import build_gates
from teacher.records import Rewrite, Writer
from teacher.run.samples import read_rewrites, write_rewrites
from teacher.sampling import Sampling, sample_rewrites
from teacher.writers.local import load_teacher

Groups = list[list[Rewrite]]
"""The rewrites of each document, in the order of the documents."""


class LessonTexts:
    """Where teachers write the arms of one evaluation; a teacher is loaded when it has something to write."""

    def __init__(self, config: Config, documents: Sequence[Document], items: Sequence[Question]) -> None:
        self.config, self.documents = config, list(documents)
        self.items = list(items)
        """Held-out questions and benchmark items: a text that carries one is a leak."""
        self._writers: dict[Path | None, Writer] = {}

    def texts(self, arm: ArmLine, arms: Sequence[ArmLine], checkpoint: Path | None = None) -> Groups:
        """The arm's rewrites, more than the lesson holds where the arm has a scaling curve. Empty for the arm `none`.
        `checkpoint` is the trained teacher's (None: the untrained one is the best). Raises UserError."""
        match arm.kind:
            case "none":
                return [[] for _ in self.documents]
            case "raw" | "repeated":
                return [[_as_rewrite(document, arm.kind, document.text)] for document in self.documents]
            case "file":
                return self._brought(Path(arm.value))
        most = self.config.rl.rewrites_per_lesson
        if arm.kind == "best-of":
            most *= int(arm.value)
        elif arm in scaling_lines(self.config, arms):
            most = max(most, *self.config.evaluation.scaling)
        return self._sample(arm, most, checkpoint if arm.kind == "trained" else None)

    def _sample(self, arm: ArmLine, most: int, checkpoint: Path | None) -> Groups:
        path = self._path(arm, most, checkpoint)
        if not path.is_file():
            write_rewrites(path, self._write(arm, most, checkpoint))
        return read_rewrites(path)

    def _path(self, arm: ArmLine, most: int, checkpoint: Path | None) -> Path:
        config = self.config
        depends = {
            "arm": arm,
            "rewrites": most,
            "checkpoint": None if checkpoint is None else _weights(checkpoint),
            "teacher": config.teacher.model_dump(mode="json"),
            "ensemble": config.evaluation.ensemble,
            "gates": config.gates.model_dump(mode="json"),
            "seed": config.run.seed,
            "documents": [[document.id, document.text] for document in self.documents],
            "items": [asdict(item) for item in self.items],
        }
        digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:12]
        name = arm.name.replace("/", "-").replace(":", "-")
        return config.run.dir / "evaluation" / "texts" / f"{name}-{digest}.json"

    def _write(self, arm: ArmLine, most: int, checkpoint: Path | None) -> Groups:
        writer = self._writer(checkpoint)
        strategies = {"strategy": (arm.value,), "ensemble": self.config.evaluation.ensemble}.get(arm.kind)
        dealt = strategies is not None and writer.settings.prompting == "policy"
        # The same random numbers for all arms: the trained and the untrained teacher differ in what they learnt alone.
        sampling = Sampling(
            rewrites=most, seed=stable_seed(self.config.run.seed, "evaluate"), strategies=strategies,
            explore=float(dealt),
        )  # fmt: skip
        gates = build_gates(
            self.config.gates, writer.settings, writer.tokenizer, self.items, self.config.student.prompt_template
        )
        return sample_rewrites(writer, self.documents, sampling, gates)

    def _writer(self, checkpoint: Path | None) -> Writer:
        """The teacher at its evaluation temperature; one is held at a time."""
        if checkpoint not in self._writers:
            self._writers.clear()
            teacher = self.config.teacher
            self._writers[checkpoint] = load_teacher(teacher, checkpoint).at(teacher.evaluation_temperature)
        return self._writers[checkpoint]

    def _brought(self, path: Path) -> Groups:
        """The rewrites of a file in the format of `notewright score`, found by the documents' texts: ids are given
        anew when documents are read."""
        benchmark = DocumentQuestions(self.config.student.prompt_template)
        by_text = {item.texts["raw"]: item for item in read_items(path, benchmark) if isinstance(item, RewriteLine)}
        without = [document for document in self.documents if document.text not in by_text]
        if without:
            raise UserError(
                f"{path}: no line with the text and rewrites of {len(without)} of {len(self.documents)} documents, the"
                f" first is {without[0].id!r}"
            )
        return [
            [
                _as_rewrite(document, path.stem, text)
                for key, text in by_text[document.text].texts.items()
                if key != "raw"
            ]
            for document in self.documents
        ]


def _as_rewrite(document: Document, strategy: str, text: str) -> Rewrite:
    return Rewrite(document_id=document.id, strategy=strategy, text=text, completion=text, prompt="")


def _weights(checkpoint: Path) -> str:
    """Names a checkpoint by the content of its weights: a run that was trained anew is another teacher."""
    digest = hashlib.sha256()
    for file in sorted(checkpoint.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def lesson_texts(groups: Groups, most: int) -> dict[str, list[str]]:
    """By document the texts of the first `most` rewrites that passed the gates."""
    return {group[0].document_id: [r.text for r in group[:most] if r.rejected is None] for group in groups if group}


def choose_best(groups: Groups, size: int, worth: Callable[[Groups], Sequence[Sequence[float]]]) -> Groups:
    """Of each document's lessons of `size` rewrites the one that is worth most by `worth`, which gives a value for each
    rewrite; the first of equals."""
    chosen: Groups = []
    for group, values in zip(groups, worth(groups), strict=True):
        lessons = range(0, len(group), size)
        best = max(lessons, key=lambda start: max(values[start : start + size]))
        chosen.append(group[best : best + size])
    return chosen

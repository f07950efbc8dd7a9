"""A student that can answer at all: all weights are trained on passages and on questions without their passages.

A small pretrained model does not know what a question without its passage asks for, and its gains are then mostly
about the form of an answer. The passages are apart by title from those the teacher is trained and judged on
(`passages`), and so are the questions by which the training stops (`held_out_curve`).
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.errors import RunError, UserError
from configs.files import locked, write_whole
from configs.format import amount, interval, without_nan
from configs.schema import Config
from configs.schema.student import Student
from curation.console.progress import WorkProgress, say
from curation.corpus.passages import Cutter
from curation.corpus.training_data import read_documents
from curation.models.held_out_curve import PATIENCE, Diverged, HeldOutCurve, figures_of
from curation.models.passages import (
    PROBE_QUESTIONS,
    Asked,
    Format,
    Split,
    blocks_of,
    questions_about,
    split_by_title,
    used_later,
)
from curation.models.states import States
from student.benchmarks.sources import DocumentQuestions
from student.engine.exam import Grade
from student.engine.full import FullTraining, train_full
from student.engine.models import check_model
from student.engine.schedule import Schedule, schedule_of_steps
from student.pools.inline import InlinePool
from student.records import Exam, group_of
from student.statistics.intervals import estimate
from teacher.run.checkpoints import save_folder

WARMUP_STEPS = 4
EXAM_QUESTIONS = 200
"""Most questions about the config's documents that are asked before and after."""


def warm_up(
    config: Config, *, model: str, data: Sequence[str], output: Path, form: Format, tokens: int, every: int,
    limit: int | None, learning_rate: float,
) -> dict[str, Any]:  # fmt: skip
    """Trains `model` on documents of the files `data` (the first `limit`), with the config's prompt template, on at
    most `tokens` tokens, and saves it in `output`, whole or not at all. Every so many tokens the held-out curve gets a
    point, and ends the training where it does not rise any more.

    Returns what `output/warm_up.json` holds: the curve, why it ended, and the answers to questions about the config's
    documents before and after, which decided nothing. A call that was killed goes on from its last point. Raises
    UserError; RunError where training diverged or brought no rise: then nothing is kept.
    """
    if output.exists():
        raise UserError(f"{output} exists: a warmed-up student is never overwritten")
    check_model("--model", model)
    later = used_later(config)
    split = split_by_title(read_documents(tuple(data), limit, cut=Cutter(config).cut), later, config.run.seed)
    # An exam asks questions of one split.
    benchmark = DocumentQuestions(config.student.prompt_template, all_as="reward")
    probe = questions_about(split.probe, benchmark, PROBE_QUESTIONS)
    pool = InlinePool(_settings(config.student, model, learning_rate))
    longest = pool.settings.max_text_tokens
    blocks = blocks_of(pool.tokenizer, split.training, benchmark, form, longest, config.run.seed)
    schedule = schedule_of_steps(pool.tokenizer, blocks, pool.settings, tokens)
    counts = _counts(split, probe, schedule)
    say(_described(counts))
    folder = output.with_name(f".{output.name}.training")
    with locked(folder / "lock", if_taken=UserError(f"another process is making {output}")):
        run = _Run(pool, schedule, probe, folder, len(next(blocks)), every)
        figures = {"base": model, "format": form, "learning_rate": learning_rate, "autocast": pool.autocast, **counts}
        try:
            result = run.train(questions_about(later, benchmark, EXAM_QUESTIONS), output, figures)
        except (_NoRise, Diverged) as error:
            shutil.rmtree(folder)
            raise RunError(f"the warm-up failed: {error}; nothing is kept; a lower --learning-rate may help") from None
        shutil.rmtree(folder)
    return result


def _settings(student: Student, model: str, learning_rate: float) -> Student:
    """How the warm-up trains. The rate falls to nearly nothing, so that the last weights of the budget are settled."""
    return student.model_copy(
        update={
            "model": model, "models": (), "mode": "full", "decode": False, "learning_rate": learning_rate,
            "schedule": "linear", "warmup_steps": WARMUP_STEPS,
            # Small updates of all weights vanish in bfloat16, whatever type lessons are taught in.
            "dtype": "float32" if student.dtype == "float32" else "auto",
        }
    )  # fmt: skip


def _counts(split: Split, probe: Asked, schedule: Schedule) -> dict[str, Any]:
    return {
        "documents": len(split.training),
        "titles": len({group_of(document) for document in split.training}),
        "held_out_questions": len(probe.questions),
        "held_out_titles": len(set(probe.clusters)),
        "left_out": dict(split.left_out),
    }


def _described(counts: dict[str, Any]) -> str:
    """The documents of a warm-up in words."""
    left_out = ", ".join(f"{count} with a {reason}" for reason, count in counts["left_out"].items())
    return (
        f"{amount(counts['documents'], 'document')} under {amount(counts['titles'], 'title')} to train on;"
        f" held out: {amount(counts['held_out_questions'], 'question')} about"
        f" {amount(counts['held_out_titles'], 'title')}; left out: {left_out or 'none'}"
    )


def describe(figures: dict[str, Any]) -> str:
    """The result of a warm-up in one sentence or two."""
    first, best = figures["curve"][0], next(p for p in figures["curve"] if p["tokens"] == figures["tokens_kept"])

    def change(before: dict[str, Any], after: dict[str, Any]) -> str:
        logliks, accuracies = (
            " -> ".join(interval(p[name], *p[f"{name}_interval"]) for p in (before, after))
            for name in ("loglik", "accuracy")
        )
        return f"log-likelihood of gold answers {logliks} nats a token, accuracy {accuracies}"

    text = (
        f"the weights after {figures['tokens_kept']:,} of {figures['tokens_trained']:,} tokens, which ended since"
        f" {figures['stopped']}; {figures['held_out_questions']} held-out questions: {change(first, best)}"
    )
    if not figures["asked"]:
        return text
    return f"{text}; {figures['asked']} about the config's documents: {change(figures['before'], figures['after'])}"


class _NoRise(Exception):
    """No point of the held-out curve rose above the start."""


class _TrainingProgress(WorkProgress):
    """Counts the tokens of one training, and tells its curve."""

    unit = "tokens"
    curve = ""

    def at(self, tokens: int, curve: str) -> None:
        """So many tokens are trained on by now."""
        self.done, self.curve = tokens, curve
        self._show()

    def _rates(self) -> str:
        return f"{super()._rates()}, {self.curve}"


class _Run:
    """One training with its curve. `folder` keeps the states of the curve's last point and of its best."""

    def __init__(self, pool: InlinePool, schedule: Schedule, probe: Asked, folder: Path, block_steps: int, every: int):
        self.pool, self.schedule, self.probe = pool, schedule, probe
        self.block_steps, self.every = block_steps, every
        self.tokens = [0]  # trained on after each step
        for step in schedule.order:
            self.tokens.append(self.tokens[-1] + sum(len(schedule.texts[index]) for index in step))
        self.curve = HeldOutCurve(probe.clusters)
        texts = [(text.ids.tolist(), text.labelled.tolist()) for text in schedule.texts]
        questions = [(question.prompt, question.answer) for question in probe.questions]
        call = json.dumps([pool.fingerprint, texts, schedule.order, questions, every])
        self.states = States(folder, hashlib.sha256(call.encode()).hexdigest())

    def train(self, last: Asked, output: Path, figures: dict[str, Any]) -> dict[str, Any]:
        """Trains, asks the `last` questions, and saves the student. `figures` go into its file, which is returned.
        Raises _NoRise, Diverged, RunError."""
        pool = self.pool
        before = self._ask(last)
        state = self.states.latest()
        if state is not None:
            self.curve.restore(state["curve"])
            say(f"going on after {self.curve.points[-1]['tokens']:,} tokens: {self.curve.line()}")
        done = 0 if state is None else self.curve.points[-1]["tokens"]
        with (
            _TrainingProgress("warm-up", self.tokens[-1], done) as progress,
            train_full(
                pool.model, self.schedule, pool.settings, pool.pad_id, pool.plan([]).train_tokens,
                autocast=pool.autocast, state=state and state["training"],
                go_on=lambda training: self._go_on(training, progress),
            ) as training,
        ):  # fmt: skip
            if training.progress.error is not None:
                raise Diverged(training.progress.error)
            if not self.curve.best:
                raise _NoRise(f"no answer of the student's got better: {self.curve.line()}")
            best = self.curve.points[self.curve.best]["tokens"]
            if best != self.tokens[training.done]:
                pool.model.load_state_dict(self.states.weights(self.tokens.index(best)))
            result = figures | self._figures(best, self.tokens[training.done], before, self._ask(last), last)

            def save(folder: Path) -> None:
                pool.model.save_pretrained(folder)
                pool.tokenizer.save_pretrained(folder)
                write_whole(folder / "warm_up.json", json.dumps(result, indent=1) + "\n")

            save_folder(output, save, "the same command goes on from the last point of the curve")
        return result

    def _go_on(self, training: FullTraining, progress: _TrainingProgress) -> bool:
        """Adds a point to the curve where one is due, and keeps the state; whether training is to go on."""
        points, tokens = self.curve.points, self.tokens[training.done]
        since = tokens - points[-1]["tokens"] if points else 0
        block_ends = training.done % self.block_steps == 0
        if not points or (block_ends and since >= self.every) or (since and training.done == self.schedule.steps):
            self.curve.add(tokens, self._ask(self.probe))
            if training.done:
                best_step = self.tokens.index(points[self.curve.best]["tokens"])
                self.states.keep(training.done, {"training": training.state(), "curve": self.curve.state()}, best_step)
        progress.at(tokens, self.curve.line())
        return not self.curve.flat

    def _ask(self, asked: Asked) -> list[Grade]:
        """The model's answers as it is now."""
        [result] = self.pool.examiner.after([Exam(questions=asked.questions)], self.pool.plan([]).exam_tokens)
        return result.grades

    def _figures(self, kept: int, trained: int, before: list[Grade], after: list[Grade], last: Asked) -> dict[str, Any]:
        """What the training came to: the curve, why it ended, and the answers about the config's documents."""
        flat = f"the held-out curve did not rise in {PATIENCE} evaluations"
        gains = [new.loglik - old.loglik for new, old in zip(after, before, strict=True)]
        figures = {
            "tokens_kept": kept,
            "tokens_trained": trained,
            "stopped": flat if self.curve.flat else "all tokens were trained on",
            "curve": self.curve.points,
            "asked": len(last.questions),
        }
        if last.questions:
            gain = estimate(gains, last.clusters)
            figures |= {
                "before": figures_of(before, last.clusters),
                "after": figures_of(after, last.clusters),
                "gain": [round(x, 4) for x in gain],
            }
        return without_nan(figures)  # type: ignore[no-any-return]

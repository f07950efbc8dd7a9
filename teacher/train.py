"""The teacher loop: sample, gate, reward, update, checkpoint; again, and on from where it stopped.

    summary = train_teacher(config, train, heldout, InlinePool(config.student))

What is random is seeded from the config and the round, ReST-EM's completions are kept before they are scored (GRPO
samples them again, the same on CPU) and rewards come from the cache, so a run that was killed goes on as if it had not
been.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from configs.errors import UserError
from configs.files import write_whole
from configs.load import config_difference, load_config, save_config
from configs.schema import Config
from student.records import Document, StudentPool
from teacher import grpo, rest_em
from teacher.checkpoints import finished_rounds, latest_checkpoint, save_checkpoint
from teacher.gates import Gate, build_gates
from teacher.journal import Journal
from teacher.metrics import step_metrics, strategy_shares
from teacher.records import Reward, Rewrite
from teacher.reward import Evaluation, RewardModel, document_questions, external_questions, read_texts, stable_seed
from teacher.sampling import sample_rewrites
from teacher.strategies import read_strategy
from teacher.summary import TrainSummary, differences, summarise
from teacher.tracking import Tracker
from teacher.writer import TransformersWriter, load_teacher

EVALUATION_STUDENTS = 2
"""Students a batch of held-out documents, with different seeds; more where `reward.repeats` says so."""

FREE_SECTIONS = ("run.dir:", "curation.", "tracking.")
"""What may differ when a run is resumed: it changes nothing that the teacher learns."""

Progress = Callable[[str], None]


def train_teacher(
    config: Config,
    train: Sequence[Document],
    heldout: Sequence[Document],
    pool: StudentPool,
    progress: Progress = print,
) -> TrainSummary:
    """Trains the teacher for `rl.rounds` rounds in `run.dir` and measures it on `heldout` documents before and after.

    A finished round is never run again. Without `heldout` documents the summary has no arms.

    Raises:
        UserError: a document without questions, an unknown strategy, a run directory of another config.
        RunError: the teacher's weights became non-finite, or the disk is full; finished rounds are kept.
    """
    check_documents(config, train, heldout)
    external_questions(config)
    if config.reward.retention_texts:
        read_texts(config.reward.retention_texts)
    claim_run(config, data_hash(train, heldout))
    disable_progress_bar()  # a bar for every model loaded would drown our line a step
    started = time.perf_counter()
    with Journal(config.run.dir) as journal, Tracker(config, journal) as tracker:
        for note in journal.notes:
            progress(note)
        loop = TeacherLoop(config, train, heldout, pool, journal, tracker, progress)
        for arm in ("raw", "untrained") if heldout else ():
            loop.evaluate(arm, None)
        for round in range(finished_rounds(config.run.dir) + 1, config.rl.rounds + 1):
            loop.run_round(round)
        checkpoint = latest_checkpoint(config.run.dir)
        assert checkpoint is not None
        if heldout:
            loop.evaluate("trained", checkpoint)
            loop.compare()
        journal.sync()
        seconds = time.perf_counter() - started
        return summarise(
            config, journal, heldout, loop.arms, checkpoint, students=loop.rewards.students, seconds=seconds
        )


class TeacherLoop:
    """One run's parts, and a round of it."""

    def __init__(
        self,
        config: Config,
        train: Sequence[Document],
        heldout: Sequence[Document],
        pool: StudentPool,
        journal: Journal,
        tracker: Tracker,
        progress: Progress,
    ) -> None:
        self.config, self.train, self.heldout = config, train, heldout
        self.journal, self.tracker, self.progress = journal, tracker, progress
        self.arms: dict[str, Evaluation] = {}
        self.writer = load_teacher(config)
        count_tokens = self.writer.count_tokens
        self.rewards = RewardModel(
            config, pool, document_questions(config), [*train, *heldout], journal, count_tokens, self._students_line
        )
        items = [question for document in heldout for question in self.rewards.exam(document, "heldout").questions]
        items += [question for question in external_questions(config) if question.split == "heldout"]
        self.gates: list[Gate] = build_gates(config, self.writer.tokenizer, items, count_tokens)
        self._started = self._last_line = time.perf_counter()
        self._steps_done = 0

    def run_round(self, round: int) -> None:
        """Sample, score, update and save; everything of the round is on disk before its checkpoint appears."""
        start = latest_checkpoint(self.config.run.dir)
        documents = round_documents(self.config, self.train, round)
        writer = load_teacher(self.config, start, train=True)
        optimizer = None
        match self.config.rl.algorithm:
            case "rest_em":
                groups = self._sample(f"round-{round:04d}", writer, documents, self.config.rl.group_size, round)
                rewards = self._score(round, round, groups)
                metrics = rest_em.update(self.config, round, writer, groups, rewards)
            case "grpo":
                steps = self.steps_per_round

                def score(step: int, groups: list[list[Rewrite]]) -> list[list[Reward]]:
                    return self._score(round, (round - 1) * steps + step, groups)

                metrics, optimizer = grpo.train_round(
                    self.config, round, writer, grpo.whole_steps(self.config, documents), self.gates, score, start
                )
        self.tracker.log("update", round, metrics)
        self.journal.sync()
        save_checkpoint(self.config.run.dir, round, writer, optimizer)

    @property
    def steps_per_round(self) -> int:
        """Scored steps: ReST-EM scores a round at once, GRPO steps once a batch of documents."""
        if self.config.rl.algorithm == "rest_em":
            return 1
        documents = min(self.config.rl.documents_per_round, len(self.train))
        return documents // grpo.documents_per_step(self.config, documents)

    def evaluate(self, arm: str, checkpoint: Path | None) -> None:
        """Measures one arm on the held-out documents: `raw` text, the `untrained` teacher, or the `trained` one."""
        rewrites: list[list[Rewrite]] = []
        if arm == "raw":
            texts: dict[str, str | None] = {document.id: document.text for document in self.heldout}
        else:
            writer = self.writer if checkpoint is None else load_teacher(self.config, checkpoint)
            # Round 0 for both arms: the same random numbers sample the untrained and the trained teacher.
            rewrites = self._sample(f"heldout-{arm}", writer, self.heldout, 1, round=0)
            texts = {group[0].document_id: None if group[0].rejected else group[0].text for group in rewrites}
        students = max(EVALUATION_STUDENTS, self.config.reward.repeats)
        seeds = [stable_seed(self.config.run.seed, "heldout", repeat) for repeat in range(students)]
        found = self.arms[arm] = self.rewards.evaluate(self.heldout, texts, seeds)
        shares = {f"strategy/{name}": share for name, share in strategy_shares(rewrites).items()}
        figures = {
            f"{name}/{part}": value
            for name, figure in (("gain", found.gain), ("accuracy", found.accuracy))
            for part, value in figure._asdict().items()
        }
        round = self.config.rl.rounds if arm == "trained" else 0
        counts = {"documents": len(self.heldout), "failed": found.failed}
        self.tracker.log("heldout", round, figures | shares | counts, arm=arm)
        self._journal_rewrites(rewrites, [], arm=arm, round=round)
        self.progress(
            f"held-out {arm}: gain {found.gain.mean:.3f} [{found.gain.low:.3f}, {found.gain.high:.3f}] · accuracy"
            f" {found.accuracy.mean:.2f} [{found.accuracy.low:.2f}, {found.accuracy.high:.2f}]{_shares_text(shares)}"
        )

    def compare(self) -> None:
        """Logs the trained teacher's held-out arm against the others, paired by document."""
        found = differences(self.arms)
        figures = {f"{name}/{part}": value for name, f in found.items() for part, value in f._asdict().items()}
        self.tracker.log("difference", self.config.rl.rounds, figures)

    def _sample(
        self, name: str, writer: TransformersWriter, documents: Sequence[Document], n: int, round: int
    ) -> list[list[Rewrite]]:
        """Gated rewrites, from `journal/samples/<name>.json` where an earlier attempt got that far."""
        path = self.journal.dir / "samples" / f"{name}.json"
        if path.is_file():
            return [[Rewrite(**rewrite) for rewrite in group] for group in json.loads(path.read_text(encoding="utf-8"))]
        seed = stable_seed(self.config.run.seed, "sample", round)
        groups = sample_rewrites(
            writer, writer.tokenizer, self.config.teacher, documents, n, seed, self.gates, writer.max_prompt_tokens
        )
        write_whole(path, json.dumps([[asdict(rewrite) for rewrite in group] for group in groups], ensure_ascii=False))
        return groups

    def _score(self, round: int, step: int, groups: list[list[Rewrite]]) -> list[list[Reward]]:
        started, asked = time.perf_counter(), self.rewards.students
        rewards = self.rewards.score(groups)
        seconds = time.perf_counter() - started
        students = self.rewards.students - asked
        metrics = step_metrics(groups, rewards)
        metrics |= {"students": students, "students_per_second": students / seconds, "seconds": seconds}
        self._journal_rewrites(groups, rewards, arm="train", round=round, step=step)
        self.tracker.log("step", round, metrics, step=step)
        self.journal.sync()
        self._steps_done += 1
        self.progress(self._step_line(round, step, metrics))
        return rewards

    def _journal_rewrites(
        self,
        groups: Sequence[Sequence[Rewrite]],
        rewards: Sequence[Sequence[Reward]],
        *,
        arm: str,
        round: int,
        step: int = 0,
    ) -> None:
        for d, group in enumerate(groups):
            for sample, rewrite in enumerate(group):
                line = {"arm": arm, "round": round, "step": step, "document_id": rewrite.document_id, "sample": sample}
                line |= {"strategy": rewrite.strategy, "rejected": rewrite.rejected}
                if rewards:
                    reward = rewards[d][sample]
                    gain = sum(reward.gains) / len(reward.gains) if reward.gains else None
                    line |= {"reward": reward.value, "gain": gain, "noise": reward.noise, "penalties": reward.penalties}
                self.journal.rewrites.append(line | {"text": rewrite.text})

    def _step_line(self, round: int, step: int, metrics: dict) -> str:
        first = (round - 1) * self.steps_per_round
        left = self.config.rl.rounds * self.steps_per_round - step
        pace = (time.perf_counter() - self._started) / self._steps_done
        reliability = metrics.get("reward/reliability")
        return (
            f"round {round}/{self.config.rl.rounds} step {step - first}/{self.steps_per_round}:"
            f" reward {metrics['reward/mean']:.3f} [{metrics['reward/low']:.3f}, {metrics['reward/high']:.3f}]"
            + (f" · reliability {reliability:.2f}" if reliability is not None else "")
            + _shares_text(metrics)
            + f" · {metrics['students_per_second']:.1f} students/s · {_duration(left * pace)} left"
        )

    def _students_line(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if done < total and now - self._last_line > 10:
            self._last_line = now
            self.progress(f"  students {done}/{total}")


def check_documents(config: Config, train: Sequence[Document], heldout: Sequence[Document]) -> None:
    """Raises UserError for what can be known to be wrong before anything is loaded."""
    if not train:
        raise UserError("no training documents: set data.train to JSONL or Parquet files with `text` and `questions`")
    if config.teacher.temperature == 0:
        raise UserError("teacher.temperature 0 makes all rewrites of a group equal; training needs it above 0")
    twice = [name for name, count in Counter(document.id for document in [*train, *heldout]).items() if count > 1]
    if twice:
        raise UserError(f"document id {twice[0]!r} occurs more than once in data.train and data.heldout")
    if config.teacher.prompting == "strategy":
        for name in config.teacher.strategies:
            read_strategy(name)
    benchmark = document_questions(config)
    for documents, split, key in ((train, "reward", "train"), (heldout, "heldout", "heldout")):
        for document in documents:
            if not any(question.split == split for question in benchmark.exam(document).questions):
                raise UserError(f"data.{key}: document {document.id!r} has no {split} questions to ask a student")


def data_hash(train: Sequence[Document], heldout: Sequence[Document]) -> str:
    """Names the documents and their questions."""
    content = [[d.id, d.text, d.metadata.get("questions")] for documents in (train, heldout) for d in documents]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def claim_run(config: Config, data: str) -> None:
    """Writes config.yaml and the data's hash into the run directory, or checks that the run is this config's, on this
    data. Raises UserError."""
    path, named = config.run.dir / "config.yaml", config.run.dir / "journal" / "data"
    if named.is_file() and named.read_text().strip() != data:
        raise UserError(f"{config.run.dir} is a run on other documents: data.train or data.heldout has changed since")
    if path.is_file():
        changes = [line for line in config_difference(load_config(path), config) if not line.startswith(FREE_SECTIONS)]
        if changes:
            raise UserError(
                f"{config.run.dir} is a run of another config ({'; '.join(changes)}): choose another run.dir"
            )
    save_config(config, path)
    write_whole(named, data + "\n")


def round_documents(config: Config, train: Sequence[Document], round: int) -> list[Document]:
    """The round's documents, dealt from an endlessly reshuffled deck: all come equally often, none twice in a round."""
    size = min(config.rl.documents_per_round, len(train))
    generator = torch.Generator().manual_seed(stable_seed(config.run.seed, "deck"))
    deck: list[int] = []
    hand: list[int] = []
    for _ in range(round):
        hand = []
        while len(hand) < size:
            if not deck:
                deck = torch.randperm(len(train), generator=generator).tolist()
                deck.sort(key=hand.__contains__)  # what is in the hand already goes under the deck
            hand.append(deck.pop(0))
    return [train[card] for card in hand]


def _shares_text(metrics: dict) -> str:
    shares = {name.removeprefix("strategy/"): value for name, value in metrics.items() if name.startswith("strategy/")}
    top = sorted(shares.items(), key=lambda item: -item[1])[:4]
    return "".join(f" · {name} {share:.0%}" for name, share in top)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

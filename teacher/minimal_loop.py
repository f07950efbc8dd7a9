"""The whole idea in one file: a teacher learns to write the lessons from which students learn most.

    notewright lab configs/lab.yaml      # once: builds models/lab
    python -m teacher.minimal_loop       # or with another lab's folder, --student student-augmented, --rounds 2

Each round the teacher rewrites documents that it has not met, several times each. Gates refuse bad rewrites, and
students are fine-tuned on the others. What a student gains on questions about a document is the reward of the rewrite
of that document. Then the teacher is fine-tuned on the best rewrites (ReST-EM, arXiv 2312.06585). This prints, in four
minutes of CPU time:

    round 1: gain 2.75, 0 refused, 48 kept, permuted 23%, partial 22%, copy 19%
    round 2: gain 4.02, 0 refused, 48 kept, question-answer 59%, copy 14%, partial 8%
    round 3: gain 5.22, 0 refused, 48 kept, question-answer 88%, copy 4%, filler 2%
    round 4: gain 5.82, 0 refused, 48 kept, question-answer 96%, partial 2%, copy 1%

The documents are biographies of fictional people. The lab's teacher knows six kinds of lesson, and at first chooses
about evenly among them. Its student learns much from questions with answers alone, which nobody tells the teacher.

The full project adds other algorithms (`teacher/algorithms`), rewards with less noise (`teacher/reward`), more gates
(`teacher/gates`), runs that survive `kill -9` (`teacher/run`), many GPUs (`student/pools`), and curation (`curation`).
"""

import argparse
import random
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.files import read_json_lines
from configs.schema import Lora, Student
from student.engine.models import load_model
from student.pools.inline import InlinePool
from student.records import Exam, Job, Lesson, Question, StudentPool
from teacher.prompting.defence import LESSON_TOKEN
from teacher.prompting.strategies import parse_completion

STRATEGIES = ("copy", "permuted", "question-answer", "partial", "filler", "wrong")
"""The kinds of lesson that the lab's teacher knows, by the tag with which it opens them."""
GROUP = 8
"""G: rewrites of a document. The teacher learns from those that are better than the rest of their group."""
DOCUMENTS_PER_STUDENT = 8
"""A student learns about so many documents at once; each then costs an eighth of a student."""
REFUSED = -1.0
"""Gain of a rewrite that was taught to nobody, in nats a token: less than a bad lesson's."""
STUDENT = Student(lora=Lora(rank=64, alpha=64), learning_rate=3e-3, steps=15, texts_per_step=8, max_text_tokens=160)

Document = dict[str, Any]
"""`id`, `text`, and `questions`, each with `question`, `answer` and `split`; those of the split `reward` are asked."""


@dataclass(frozen=True)
class Rewrite:
    """A lesson text, and the tokens that the teacher is trained on if the lesson was a good one."""

    prompt_ids: list[int]
    completion_ids: list[int]  # with the token that ended it
    strategy: str
    text: str  # what students read: the completion without its tag
    refused: bool


def train(
    lab: Path,
    student: str = "student-fixed",
    rounds: int = 4,
    documents_per_round: int = 48,
    student_settings: Student = STUDENT,
    max_new_tokens: int = 96,
) -> list[float]:
    """Trains the teacher of the lab in folder `lab`, and prints a line a round.

    Returns the mean gain of each round's rewrites, in nats a token of right answers. It is measured before the round's
    update, on documents that are new to the teacher.
    """
    torch.manual_seed(0)
    documents = read_json_lines(lab / "shards" / "train.jsonl")
    random.Random(0).shuffle(documents)
    teacher, tokenizer = load_model(str(lab / "teacher"), dtype="float32")
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=5e-4, weight_decay=0.0)
    pool = InlinePool(student_settings.model_copy(update={"model": str(lab / student)}))
    mean_gains = []
    for round in range(rounds):
        batch = documents[round * documents_per_round : (round + 1) * documents_per_round]
        rewrites_DG = sample(teacher, tokenizer, batch, max_new_tokens)
        gains_DG = teach(pool, batch, rewrites_DG, seed=round)
        kept = select(rewrites_DG, gains_DG)
        update(teacher, tokenizer, optimizer, kept)

        mean_gains.append(statistics.fmean(gain for gains_G in gains_DG for gain in gains_G))
        rewrites = [rewrite for rewrites_G in rewrites_DG for rewrite in rewrites_G]
        refused = sum(rewrite.refused for rewrite in rewrites)
        strategies = Counter(rewrite.strategy for rewrite in rewrites).most_common(3)
        shares = ", ".join(f"{name} {count / len(rewrites):.0%}" for name, count in strategies)
        print(
            f"round {round + 1}: gain {mean_gains[-1]:.2f}, {refused} refused, {len(kept)} kept, {shares}", flush=True
        )
    return mean_gains


@torch.no_grad()
def sample(
    teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: list[Document], max_new_tokens: int
) -> list[list[Rewrite]]:
    """G rewrites of each document at temperature 1: the teacher learns from what it does itself."""
    tokenizer.padding_side = "left"  # so that all rows of a batch end where their completions begin
    rewrites_DG = []
    for start in range(0, len(documents), 8):
        batch = documents[start : start + 8]
        # The lab's teacher has no chat template: it reads a document and the token after which a lesson begins.
        prompts = [f"{document['text']}\n{LESSON_TOKEN}" for document in batch]
        inputs = tokenizer(prompts, padding=True, return_tensors="pt").to(teacher.device)
        ids_BT = teacher.generate(  # type: ignore[operator]
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], num_return_sequences=GROUP,
            max_new_tokens=max_new_tokens, do_sample=True, temperature=1.0,
            top_k=0,  # the library's default of 50 would cut off what the teacher seldom tries
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        new_BT = ids_BT[:, inputs["input_ids"].shape[1] :].tolist()
        for d, document in enumerate(batch):
            prompt_ids = tokenizer(prompts[d])["input_ids"]
            group_GT = new_BT[d * GROUP : (d + 1) * GROUP]
            rewrites_DG.append([read_completion(tokenizer, document, prompt_ids, new_ids) for new_ids in group_GT])
    return rewrites_DG


def read_completion(
    tokenizer: PreTrainedTokenizerBase, document: Document, prompt_ids: list[int], new_ids: list[int]
) -> Rewrite:
    """The rewrite in the teacher's new tokens, after the gates: it must have come to an end, have a text, and not quote
    the exam, which would teach how to answer it and nothing else."""
    ended = tokenizer.eos_token_id in new_ids
    completion_ids = new_ids[: new_ids.index(tokenizer.eos_token_id) + 1] if ended else new_ids
    completion = str(tokenizer.decode(completion_ids, skip_special_tokens=True))
    strategy, text = parse_completion(completion, STRATEGIES)
    quotes_exam = any(question["question"] in text for question in document["questions"])
    return Rewrite(prompt_ids, completion_ids, strategy, text, refused=not ended or not text or quotes_exam)


def teach(
    pool: StudentPool, documents: list[Document], rewrites_DG: list[list[Rewrite]], seed: int
) -> list[list[float]]:
    """Fine-tunes students on the rewrites and examines them; returns the gain of each rewrite in nats a token.

    The gain is the log-likelihood of the right answers after the lesson minus that before. A student learns the j-th
    rewrite of several documents, and each rewrite is credited with the questions about its own document. The pool
    trains many students at once, as adapters in one batch.
    """
    taught, jobs = [], []
    for start in range(0, len(documents), DOCUMENTS_PER_STUDENT):
        together = range(start, min(start + DOCUMENTS_PER_STUDENT, len(documents)))
        questions = tuple(
            Question(prompt=question["question"], answer=question["answer"], document_id=documents[d]["id"])
            for d in together
            for question in documents[d]["questions"]
            if question["split"] == "reward"
        )
        for j in range(GROUP):
            members = [d for d in together if not rewrites_DG[d][j].refused]
            lesson = Lesson(
                texts=tuple(rewrites_DG[d][j].text for d in members),
                document_ids=tuple(documents[d]["id"] for d in members),
                seed=seed,  # the same for all students, so that they differ by their lessons alone
            )
            taught.append((j, members))
            jobs.append(Job(lesson=lesson, exam=Exam(questions=questions)))
    gains_DG = [[REFUSED] * GROUP for _ in documents]
    for (j, members), job, outcome in zip(taught, jobs, pool.examine(jobs), strict=True):
        if outcome.error is None:
            answers = list(zip(job.exam.questions, outcome.answers, strict=True))
            for d in members:
                own = [
                    answer.loglik_after - answer.loglik_before
                    for question, answer in answers
                    if question.document_id == documents[d]["id"]
                ]
                gains_DG[d][j] = statistics.fmean(own)
    return gains_DG


def select(rewrites_DG: list[list[Rewrite]], gains_DG: list[list[float]]) -> list[Rewrite]:
    """The best rewrite of each document, where it beat the mean of its group. Refused ones are no part of the group, as
    they would make any other look good. (The full project also asks whether the lead is more than noise.)"""
    kept = []
    for rewrites_G, gains_G in zip(rewrites_DG, gains_DG, strict=True):
        taught = [j for j in range(GROUP) if not rewrites_G[j].refused]
        best = max(taught, key=gains_G.__getitem__, default=0)
        if taught and gains_G[best] > statistics.fmean(gains_G[j] for j in taught):
            kept.append(rewrites_G[best])
    return kept


def update(
    teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, optimizer: torch.optim.Optimizer, kept: list[Rewrite]
) -> None:
    """Raises the likelihood of the kept rewrites in place: three epochs of cross-entropy on what the teacher wrote."""
    for _ in range(3):
        for order in torch.randperm(len(kept)).split(16):
            rewrites = [kept[i] for i in order.tolist()]
            longest = max(len(rewrite.prompt_ids) + len(rewrite.completion_ids) for rewrite in rewrites)
            # Padded on the right, where the attention of the real tokens never looks; -100 has no loss.
            ids_BT = torch.full((len(rewrites), longest), tokenizer.pad_token_id)
            labels_BT = torch.full((len(rewrites), longest), -100)
            for b, rewrite in enumerate(rewrites):
                start, end = len(rewrite.prompt_ids), len(rewrite.prompt_ids) + len(rewrite.completion_ids)
                ids_BT[b, :end] = torch.tensor(rewrite.prompt_ids + rewrite.completion_ids)
                labels_BT[b, start:end] = ids_BT[b, start:end]
            loss = teacher(input_ids=ids_BT.to(teacher.device), labels=labels_BT.to(teacher.device)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains a lab's teacher by the minimal loop.")
    parser.add_argument("lab", type=Path, nargs="?", default=Path("models/lab"))
    parser.add_argument("--student", default="student-fixed", choices=["student-fixed", "student-augmented"])
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    train(arguments.lab, arguments.student, arguments.rounds)

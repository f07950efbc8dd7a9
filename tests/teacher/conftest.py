"""A teacher of two random layers over forty words, and students whose gain is a known function of the text."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datatrove.data import Document
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from configs.schema import Config
from student.records import Answer, Job, Outcome, Proof, mean_gain
from tests.teacher.killing import forks, run_and_kill  # noqa: F401 (fixtures)

WORDS = "gold iron salt wood rope sand milk corn silk glass clay wool lime coal horn reed moss bark dust snow".split()
TAGS = ("copy", "question-answer", "permuted")


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory) -> Path:
    """A random Llama with a word-level tokenizer, saved as an ordinary model folder."""
    names = ["<pad>", "<eos>", "<unk>", *WORDS, *"0 1 2 3 4 5 6 7 8 9 in the shop".split()]
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    tokenizer.add_tokens([AddedToken(t, special=False) for t in ("<lesson>", *(f"<{tag}>" for tag in TAGS))])
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, initializer_range=0.1,
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("teacher")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def student_folder(teacher_folder, tmp_path_factory) -> Path:
    """A random base of two layers for real students, with the teacher's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    torch.manual_seed(1)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            bos_token_id=None, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("student")
    base.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _documents(count: int, prefix: str = "shop") -> list[Document]:
    opening = "in the shop" if prefix == "shop" else "the shop in"
    return [
        Document(
            id=f"{prefix}-{i}",
            # The same text in two sets of documents would be refused.
            text=f"{opening} {i % 10} {WORDS[1 + i % 19]} {WORDS[1 + (7 * i) % 19]}",
            metadata={
                "questions": [
                    {"question": f"what is in {prefix} {i} ?", "answer": "gold", "split": "reward"},
                    {"question": f"what would {prefix} {i} hold ?", "answer": "gold", "split": "heldout"},
                ]
            },
        )
        for i in range(count)
    ]


class GoldPool:
    """Students that gain as much about a document as the share of the word `gold` in what they read about it,
    plus noise that their seed fixes. A double of the student engine for the mechanics of the loop alone."""

    fingerprint = "gold-1"
    proof = Proof("float32", packed=True, shares_prompts=True)

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise
        self.calls: list[int] = []
        self.jobs: list[Job] = []

    def examine(self, jobs: list[Job], on_done=None) -> list[Outcome]:
        self.calls.append(len(jobs))
        self.jobs += jobs
        torch.rand(1)  # a pool may draw from the global generator
        outcomes = [self._outcome(job) for job in jobs]
        if on_done is not None:
            on_done(dict(enumerate(outcomes)))
        return outcomes

    def close(self) -> None:
        """Holds nothing."""

    def _outcome(self, job: Job) -> Outcome:
        if any("poison" in text for text in job.lesson.texts):
            return Outcome(gain=None, error="the loss is not finite")
        told: dict[str, list[str]] = {}
        for name, text in zip(job.lesson.document_ids, job.lesson.texts, strict=True):
            told.setdefault(name, []).extend(text.split())
        answers = []
        for question in job.exam.questions:
            heard = told.get(question.document_id, [])
            digest = hashlib.sha256(f"{job.lesson.seed}{heard}".encode()).digest()
            gain = (heard.count("gold") / len(heard) if heard else 0.0) + self.noise * (digest[0] / 255 - 0.5)
            answers.append(
                Answer(loglik_before=-2.0, loglik_after=-2.0 + gain, correct_before=False, correct_after=gain > 0.5)
            )
        metrics = {"retention_before": 1.0, "retention_after": 1.5} if job.exam.retention_texts else {}
        return Outcome(gain=mean_gain(answers, "loglik"), metrics=metrics, answers=tuple(answers))


class ForgetfulPool(GoldPool):
    """Students that also forget as many nats as there is a share of the word `gold` in all that they learnt."""

    fingerprint = "forgetful-1"
    proof = Proof("float32", packed=True, shares_prompts=True)

    def _outcome(self, job: Job) -> Outcome:
        outcome = super()._outcome(job)
        heard = " ".join(job.lesson.texts).split()
        lost = heard.count("gold") / len(heard) if heard else 0.0
        return replace(outcome, metrics={"retention_before": 1.0, "retention_after": 1.0 + lost})


def _config(folder: Path, run_dir: Path, **sections: dict) -> Config:
    base: dict[str, dict] = {
        "run": {"dir": run_dir},
        "student": {"steps": 4},
        "teacher": {
            "model": str(folder), "prompting": "policy", "strategies": TAGS, "max_new_tokens": 10, "lora": None,
            "batch_size": 32, "device": "cpu",
        },
        "gates": {"min_words": 1, "max_repetition": 1.0},
        "reward": {"documents_per_student": 4},
        "rl": {
            "rounds": 2, "documents_per_round": 8, "group_size": 4, "learning_rate": 0.01, "rest_em": {"batch_size": 4},
            "false_keep": None,  # of a random teacher's lessons few are scored, and they hardly differ
            "dpo": {"batch_size": 4},
        },
    }  # fmt: skip
    return Config.model_validate({name: base.get(name, {}) | sections.get(name, {}) for name in base | sections})


@pytest.fixture(scope="session")
def make_documents():
    """`make_documents(count, prefix)`: documents with a `reward` and a `heldout` question, answered by `gold`."""
    return _documents


@pytest.fixture
def make_config(teacher_folder, tmp_path):
    """`make_config(**sections)`: a small experiment with the random teacher; `sections` update its defaults by key."""

    def make(run_dir: Path | None = None, **sections: dict) -> Config:
        return _config(teacher_folder, run_dir or tmp_path / "run", **sections)

    return make


@pytest.fixture(scope="session")
def gold_pool():
    """The class of the students' double: `gold_pool(noise=0.1)`."""
    return GoldPool


@pytest.fixture(scope="session")
def forgetful():
    """The class of a double whose students forget what they knew over the word `gold`."""
    return ForgetfulPool


@pytest.fixture
def retention(tmp_path):
    """`retention(weight)`: settings of `reward` that penalise forgetting."""
    old = tmp_path / "old.jsonl"
    old.write_text(json.dumps({"text": "what was known"}) + "\n")
    return lambda weight: {"retention_texts": str(old), "retention_weight": weight}

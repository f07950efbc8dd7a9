"""Documents that say where an animal sat, with rewrites that ask it, tell it or say nothing, and outcomes of each."""

import json

import pytest

from configs.schema import Config, Lora, Reward, Run, Student, Validity
from student.pools.inline import InlinePool
from tests.student.conftest import build, tokenizer  # noqa: F401

SETTINGS = Student(
    lora=Lora(rank=4, alpha=8), learning_rate=2e-2, steps=8, warmup_steps=2, decode=True, max_answer_tokens=4
)
ANIMALS = ["cat", "dog", "bird"]
PLACES = ["mat", "rug", "sea"]
WORTH = {"asked": 1.0, "told": 0.6, "half": 0.3, "filler": 0.0}


def documents(count):
    """The outcomes are the worth of each way, with a little that differs from run to run."""
    for i in range(count):
        animal, place = ANIMALS[i % 3], PLACES[i // 3 % 3]
        other = PLACES[(i // 3 + 1) % 3]
        texts = {
            "asked": f"where did the {animal} sat ? the {place}",
            "told": f"on the {place} sat the {animal} .",
            "half": f"the {animal} sat",
            "filler": "it was it was it was",
        }
        yield {
            "id": f"d{i}",
            "title": f"title {i // 2}",
            "text": f"the {animal} sat on the {place} .",
            "questions": [
                {
                    "question": f"where did the {animal} sat ?", "answer": f"the {place}",
                    "distractors": [f"the {other}"], "split": "reward",
                },
                {
                    "question": f"what sat on the {place} ?", "answer": f"the {animal}",
                    "distractors": ["the sea" if place != "sea" else "the rug"], "split": "heldout",
                },
            ],
            "rewrites": [
                {"prompt": way, "text": text, "accuracies": [WORTH[way] + 0.05 * ((i + j + k) % 3) for k in range(2)]}
                for j, (way, text) in enumerate(texts.items())
            ],
        }  # fmt: skip


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def config(tmp_path):
    path = write(tmp_path / "documents.jsonl", documents(6))
    return Config(
        run=Run(dir=tmp_path / "run"),
        data={"train": (str(path),)},
        student=SETTINGS,
        reward=Reward(documents_per_student=3),
        validity=Validity(documents=6, steps=(2, 8), repeated_documents=3),
    )


def with_(config, **validity):
    """The config with other settings of `validity`."""
    return config.model_copy(update={"validity": Validity(**(config.validity.model_dump() | validity))})


@pytest.fixture
def pool(tokenizer):  # noqa: F811
    return InlinePool(SETTINGS, model=build("llama"), tokenizer=tokenizer)

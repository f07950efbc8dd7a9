"""How varied texts are: the figures agree with other implementations, and do not depend on the order of tasks."""

import random
from pathlib import Path

import pytest

from curation.corpus.secrets import find_secrets
from curation.pipeline.card import dataset_card
from curation.pipeline.curate import curate
from curation.pipeline.diversity import SHOWN, Lowest, Samples, distinct, diversity, near_duplicates, self_bleu
from tests.curation.datasets import manifest_of, write_jsonl
from tests.curation.pipeline.test_echo import echo_config

WORDS = [f"word{n}" for n in range(60)]


def made_texts(count: int, seed: int = 0, length: int = 80) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(length // 2, length))) for _ in range(count)]


def test_self_bleu_is_that_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    texts = [*made_texts(12), "word1 word2 word3 word4 word5", "word1 word2 word3 word4 word5 word6"]
    scores = [
        sacrebleu.sentence_bleu(
            text, texts[:i] + texts[i + 1 :], tokenize="none", smooth_method="floor", smooth_value=0.1,
            use_effective_order=False,
        ).score / 100
        for i, text in enumerate(texts)
    ]  # fmt: skip
    assert self_bleu([text.split() for text in texts]) == pytest.approx(sum(scores) / len(scores), abs=1e-9)
    assert self_bleu([["a"] * 9] * 3) == pytest.approx(1) and self_bleu([["a"]]) == 0


def test_distinct() -> None:
    assert distinct("a b a b".split(), 1) == 0.5 and distinct("a b a b".split(), 2) == 2 / 3 and distinct([], 2) == 1


def test_near_duplicates_are_found() -> None:
    texts = [text.split() for text in made_texts(40, length=200)]
    assert near_duplicates(texts) == 0
    changed = [[*text[:50], "other", *text[51:]] for text in texts[:10]]
    assert near_duplicates(texts + changed) >= 9 and near_duplicates([*texts, texts[0], texts[0]]) == 2
    assert near_duplicates([["one"], ["one"], []]) == 1


def record(number: int, text: str, strategy: str = "notes") -> dict[str, object]:
    place = {"source_file": "a.jsonl", "source_row": number // 2, "source_text": f"source {number // 2} {text}"}
    return {"id": f"a.jsonl#{number}", "rewrite": number % 2, "strategy": strategy, "text": text, **place}


def test_the_sample_does_not_depend_on_the_order() -> None:
    records = [record(n, text, ("notes", "qa")[n % 2]) for n, text in enumerate(made_texts(1500))]
    found = []
    for seed in range(2):
        random.Random(seed).shuffle(records)
        samples = Samples()
        for start in range(0, len(records), 70):
            samples.add_rows(records[start : start + 70])
        found.append(diversity(samples))
    assert found[0] == found[1] and found[0] is not None
    assert found[0]["rows"]["texts"] == 500 and found[0]["strategies"]["qa"]["texts"] == 200
    lowest = Lowest(3)
    for n in range(100):
        lowest.add(str(n), {"n": n})
    assert len(list(lowest)) == 3


def test_a_strategy_with_little_text_has_no_figures() -> None:
    samples = Samples()
    samples.add_rows([record(n, text) for n, text in enumerate(made_texts(30))])
    samples.add_rows([record(99, "only a few words", "short")])
    found = diversity(samples)
    assert found is not None
    short = found["strategies"]["short"]
    assert short["distinct"] == [None] * 4 and short["compression"] is None and short["self_bleu"] is None
    assert found["strategies"]["notes"]["compression"] > 1 and diversity(Samples()) is None


def test_examples_of_refused_texts_are_safe_to_publish(tmp_path: Path) -> None:
    key = "AKIA" + "Q3EGRZ7TPL5MX2AB"
    again = " ".join(["again and again it says"] * 30)
    documents = [
        *({"text": " ".join(random.Random(n).sample(WORDS, k=60))} for n in range(20)),
        {"text": again},
        *({"text": f"with {key} {again}"} for _ in range(5)),
        {"text": f"{again} of another house", "licence": "CC BY-ND 4.0"},
        {"text": f"who is it that nobody names in all of the town? nobody {again}"},
    ]
    quiz = {"question": "who is it that nobody names in all of the town?", "answer": "nobody"}
    write_jsonl(tmp_path / "in/a.jsonl", documents)
    write_jsonl(tmp_path / "quiz.jsonl", [quiz])
    settings = ("curation.filters.gopher_repetition=true", f"curation.benchmarks=[file:{tmp_path}/quiz.jsonl]")
    config = echo_config(tmp_path / "in", tmp_path / "out", *settings)
    curate(config)
    manifest = manifest_of(config)
    shown = manifest["refused_examples"]
    [(reason, example)] = [(reason, example) for reason, texts in shown.items() for example in texts]
    assert reason.startswith("gopher_repetition/") and example["id"] == "a.jsonl#20"
    assert again.startswith(example["text"].removesuffix(" ...")) and sum(manifest["filter_reasons"].values()) == 8
    card = dataset_card("x", manifest).content
    assert example["text"] in card and not find_secrets(card) and "| all rows | 20 |" in card
    assert not SHOWN & {"leak", "leak_check", "contaminated", "secrets", "unknown_licence", "obeyed", "pii"}

"""What a warm-up is trained on: titles stay apart, and steps come in the order that the recipe says."""

import random
from collections import Counter
from itertools import islice, pairwise

import pytest
from datatrove.data import Document
from transformers import AutoTokenizer

from configs.errors import UserError
from curation.models.passages import (
    BLOCK_PASSAGES,
    blocks_of,
    questions_about,
    reading_texts,
    split_by_title,
)
from student.benchmarks.sources import DocumentQuestions
from tests.curation.datasets import WORDS

BENCHMARK = DocumentQuestions("{question} ?")


def document(number, title=None, text=None, questions=2):
    asked = [{"question": f"{number} {n}", "answer": f"{n}"} for n in range(questions)]
    metadata = {"questions": asked} | ({} if title is None else {"title": title})
    return Document(text=text or f"text {number}", id=str(number), metadata=metadata)


@pytest.fixture
def tokenizer(teacher):
    return AutoTokenizer.from_pretrained(teacher)


def random_documents(rng, count, first=0):
    """Few titles and few texts, so that both come again, in other spellings too."""
    spellings = ("Rhine", "rhine", " The  Rhine", "Oxygen", "oxygen ", "Tesla", "Kenya", "", None, 7)
    titles = [rng.choice(spellings) for _ in range(count)]
    texts = [f"text  {rng.randrange(3 * count)}" if rng.random() < 0.5 else None for _ in range(count)]
    return [document(first + n, title, text) for n, (title, text) in enumerate(zip(titles, texts, strict=True))]


def test_no_title_and_no_text_is_in_two_places():
    def keys(documents):
        texts = {("words", " ".join(document.text.split())) for document in documents}
        titles = {
            str(d.metadata.get("title")).strip().lower() for d in documents if isinstance(d.metadata["title"], str)
        }
        return texts | {("title", " ".join(title.split())) for title in titles if title}

    for seed in range(200):
        rng = random.Random(seed)
        documents, later = random_documents(rng, 40), random_documents(rng, rng.randrange(4), 100)
        for other in (*documents, *later):
            other.metadata.setdefault("title", None)
        split = split_by_title(documents, later, seed)
        places = [keys(split.training), keys(split.probe), keys(later)]
        assert all(not places[a] & places[b] for a, b in ((0, 1), (0, 2), (1, 2)))
        kept = [*split.training, *split.probe]
        assert split.training and split.probe and len(kept) + split.left_out.total() == len(documents)
        assert len({d.text for d in kept}) == len(kept), "no text comes twice"
        again = split_by_title(documents, later, seed)
        assert [d.id for d in again.probe] == [d.id for d in split.probe]


def test_too_few_titles_are_refused_with_the_reasons():
    documents = [document(n, title) for n, title in enumerate(["a", "a", "b", "c", "d"])]
    assert split_by_title(documents, [], 0).left_out == Counter()
    with pytest.raises(UserError, match="there are 3 of 5 passages; left out: 2 with a title used later"):
        split_by_title(documents, [document(9, "A")], 0)
    with pytest.raises(UserError, match="1 with a text used later"):
        split_by_title(documents, [document(9, None, "text 2")], 0)


def test_each_title_gives_as_many_questions():
    documents = [document(0, "a", questions=9), document(1, "a", questions=9), document(2, "b"), document(3)]
    asked = questions_about(documents, BENCHMARK, 7)
    assert Counter(asked.clusters) == {("title", "a"): 3, ("title", "b"): 2, ("text", "text 3"): 2}
    assert len(questions_about(documents, BENCHMARK, 100).questions) == 22


def test_a_block_is_read_twice_and_then_asked_twice(tokenizer):
    documents = [document(number) for number in range(20)]
    blocks = list(islice(blocks_of(tokenizer, documents, BENCHMARK, "mixed", 64, 0), 5))
    for block in blocks:
        assert [step.loss_on for step in block] == ["all", "all", "answer", "answer"]
        reading, again, answering, once_more = block
        assert reading == again and answering == once_more
        numbers = [text.removeprefix("text ") for text in reading.texts]
        assert len(numbers) == len(set(numbers)) == BLOCK_PASSAGES or block is not blocks[0]
        expected = [(f"{number} {n} ?", f" {n}") for number in numbers for n in range(2)]
        assert [(prompt.text, answer.text) for prompt, answer in answering.texts] == expected
        assert all("text" not in prompt.text for prompt, _ in answering.texts), "no passage stands beside its question"
    read = Counter(text for block in blocks for text in block[0].texts)
    assert set(read.values()) == {4}, "5 blocks of 16 are 4 passes over 20 passages"
    alone = list(islice(blocks_of(tokenizer, documents, BENCHMARK, "questions", 64, 0), 5))
    assert alone == [block[2:] for block in blocks], "the ablation leaves out reading and nothing else"


def test_a_long_passage_is_read_in_whole_sentences(tokenizer):
    sentences = [" ".join(random.Random(n).choices(WORDS, k=3 + n % 5)).capitalize() + "." for n in range(30)]
    text = "\n".join(" ".join(sentences[start : start + 6]) for start in range(0, 30, 6))
    for most in (9, 16, 40):
        parts = reading_texts(tokenizer, text, most)
        assert " ".join(parts).split() == text.split()
        assert all(part.endswith(".") for part in parts)
        assert all(len(tokenizer(part)["input_ids"]) + 2 <= most for part in parts)
        pairs = pairwise(parts)
        assert all(len(f"{a} {b.split('.')[0]}".split()) + 2 > most for a, b in pairs), "as few parts as there can be"
    assert reading_texts(tokenizer, text, 1000) == [text]
    assert reading_texts(tokenizer, " ".join(WORDS), 9) == [" ".join(WORDS)], "one sentence is not cut here"

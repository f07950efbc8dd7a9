"""Which fact a question asks for, and on which side, `reward` or `heldout`, each fact is.

A question's fact is a sentence of its document: of those that say the answer the one that has most words of the
question. Questions with one sentence, or with one answer, ask for one fact in whatever words, and so does each that
shares either with one of them. All questions of a fact are on one side, so that no held-out question asks for what was
rewarded.

The file of questions names the side of each, so that nothing changes it when others are edited, added or removed. One
that is added without a side goes where its fact is; the first of a fact goes where a hash of the sentence says.
"""

from collections.abc import Sequence
from typing import Any

from configs.seeds import item_hash
from student.benchmarks.items import HELDOUT_SHARE, split_of
from student.records import Document
from student.text.sentences import split_sentences
from student.text.words import word_line, words


def facts_of(document: Document, items: Sequence[dict[str, Any]]) -> list[int]:
    """The fact that each question (`{question | prompt, answer}`) asks for: the number of the first sentence of all
    that its questions are about."""
    lines = [word_line(words(sentence)) for sentence in split_sentences(document.text)]
    sentences = [_sentence_of(lines, item) for item in items]
    answers = [word_line(words(item["answer"])) for item in items]
    facts = list(sentences)
    for i, answer in enumerate(answers):
        for j in range(i):
            if sentences[i] == sentences[j] or answer in answers[j] or answers[j] in answer:
                one, other = sorted((facts[i], facts[j]))
                facts = [one if fact == other else fact for fact in facts]
    return facts


def _sentence_of(lines: list[str], item: dict[str, Any]) -> int:
    """The sentence that a question is about; the first one of a document without any."""
    answer = word_line(words(item["answer"]))
    asked = set(words(item.get("question", item.get("prompt", ""))))
    saying = [number for number, line in enumerate(lines) if answer in line]
    if not saying:  # the answer is in nobody's words, or in two sentences
        asked |= set(answer.split())
        saying = list(range(len(lines)))
    return max(saying, key=lambda number: len(asked.intersection(lines[number].split())), default=0)


def with_sides(
    document: Document, items: Sequence[dict[str, Any]], heldout_share: float = HELDOUT_SHARE
) -> list[dict[str, Any]]:
    """The questions, each with its `split`; of a share of 0 or 1 all on one side. Those that have one keep it. Of two
    facts or more at least one is on each
    side, unless the questions that have a side say otherwise."""
    if all(item.get("split") for item in items):
        return list(items)
    facts = facts_of(document, items)
    sides: dict[int, str] = {}
    for fact, item in zip(facts, items, strict=True):
        if item.get("split"):
            sides.setdefault(fact, item["split"])
    sentences = [" ".join(words(sentence)) for sentence in split_sentences(document.text)] or [""]
    free = sorted({fact for fact in facts if fact not in sides}, key=lambda fact: item_hash(sentences[fact]))
    sides |= {fact: split_of(sentences[fact], heldout_share=heldout_share) for fact in free}
    if free and 0 < heldout_share < 1 and len(sides) > 1 and len(set(sides.values())) == 1:
        # By the same hash as the side itself: the fact that was nearest to the other side.
        last, side = (free[0], "heldout") if sides[free[0]] == "reward" else (free[-1], "reward")
        sides[last] = side
    return [
        item if item.get("split") else item | {"split": sides[fact]} for fact, item in zip(facts, items, strict=True)
    ]

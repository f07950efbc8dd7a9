"""Wrong answers to a question: answers of other questions, first of its own document, then of other documents."""

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from configs.errors import UserError
from configs.format import amount
from configs.schema import Reward
from configs.seeds import item_hash
from student.records import Benchmark, Document, Question, Split
from student.text.grading import normalise
from student.text.words import graded_words, word_line

AnyDocument = TypeVar("AnyDocument", bound=Document)
Kind = Literal["number", "name", "phrase"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Questions with their distractors."""

    questions: dict[str, list[Question]]
    """By document, in the given order."""
    from_others: int = 0
    """Questions with a distractor of another document."""
    without: int = 0
    """Questions without any, which tell neither `contrast` nor `choice`."""

    def __str__(self) -> str:
        count = sum(map(len, self.questions.values()))
        return f"of {count} questions {self.from_others} have some of other documents, {self.without} none"


def ask_documents(documents: Iterable[Document], benchmark: Benchmark, split: Split, reward: Reward) -> Drawn:
    """Each document's questions of one split, with the distractors that `reward` asks for."""
    asked = {d.id: [q for q in benchmark.exam(d).questions if q.split == split] for d in documents}
    return draw_distractors(asked, reward.distractors_drawn)


def telling_documents(
    documents: Sequence[AnyDocument],
    benchmark: Benchmark,
    split: Split,
    reward: Reward,
    key: str,
    say: Callable[[str], None],
) -> list[AnyDocument]:
    """The documents whose questions tell `reward.measure`; says how distractors were drawn, and how many documents are
    left out. `key` of the config names them. Raises UserError where none is left."""
    drawn = ask_documents(documents, benchmark, split, reward)
    kept = [document for document in documents if any(tells(q, reward) for q in drawn.questions[document.id])]
    if documents and not kept:
        asked, advice = f"{split} question", "give documents questions"
        if reward.needs_distractors:
            asked, advice = f"{asked} with a distractor", "set reward.distractors, or give questions `distractors`"
        raise UserError(
            f"{key}: no {asked} in {amount(len(documents), 'document')}, so that reward.measure {reward.measure!r}"
            f" cannot be told: {advice}"
        )
    left_out = len(documents) - len(kept)
    words = f"{left_out} of {len(documents)} documents tell no {reward.measure} and are left out" if left_out else ""
    told = f"distractors: {drawn}" if reward.distractors_drawn or reward.needs_distractors else ""
    if words or told:
        say(f"{key}: {'; '.join(part for part in (told, words) if part)}")
    return kept


def tells(question: Question, reward: Reward) -> bool:
    """Whether the question tells `reward.measure`."""
    return question.text == (reward.measure == "bits") and (bool(question.distractors) or not reward.needs_distractors)


def draw_distractors(asked: Mapping[str, Sequence[Question]], count: int) -> Drawn:
    """Up to `count` distractors for each document's questions, which are of one split, so that no answer of the other
    is among them. A question that brings distractors keeps them.

    Answers of the own document come first, and among them those of the answer's kind (`kind_of`). Their order is a hash
    of question and answer, so that it does not depend on the other documents; these fill up what is missing, chosen at
    random by the question. Left out is an answer that is, holds, or is part of the gold answer.
    """
    pools: dict[Kind, list[str]] = {"number": [], "name": [], "phrase": []}
    for answer in sorted({q.answer for questions in asked.values() for q in questions if not q.text}):
        pools[kind_of(answer)].append(answer)
    drawn: dict[str, list[Question]] = {}
    from_others = without = 0
    for document, questions in asked.items():
        drawn[document] = []
        for question in questions:
            if not question.distractors and count and not question.text:
                own = _own(question, {other.answer for other in questions if not other.text})
                found = _different(question.answer, own, count)
                if len(found) < count:
                    chance = random.Random(item_hash(question.prompt, question.answer))
                    kind = kind_of(question.answer)
                    others = (
                        a
                        for k in (kind, *(k for k in pools if k != kind))
                        for a in chance.sample(pools[k], len(pools[k]))
                    )
                    filled = _different(question.answer, (*found, *others), count)
                    from_others += len(filled) > len(found)
                    found = filled
                question = replace(question, distractors=tuple(found))
            without += not question.distractors and not question.text
            drawn[document].append(question)
    return Drawn(questions=drawn, from_others=from_others, without=without)


def kind_of(answer: str) -> Kind:
    """`number` (a date, too) if it holds a digit, `name` if its last word begins with a capital letter, else
    `phrase`."""
    if re.search(r"\d", answer):
        return "number"
    return "name" if answer.split()[-1:] and answer.split()[-1][:1].isupper() else "phrase"


def _own(question: Question, answers: Iterable[str]) -> list[str]:
    kind = kind_of(question.answer)
    return sorted(answers, key=lambda a: (kind_of(a) != kind, item_hash(question.prompt, question.answer, a)))


def _different(gold: str, answers: Iterable[str], count: int) -> list[str]:
    """The first of the answers that differ from gold and from each other."""
    gold_words, seen, found = word_line(graded_words(normalise(gold))), set(), list[str]()
    for answer in answers:
        words = word_line(graded_words(normalise(answer)))
        if len(found) == count:
            break
        if words.strip() and words not in seen and words not in gold_words and gold_words not in words:
            seen.add(words)
            found.append(answer)
    return found

"""The lab's world: fictional people, what can be written about them, and what can be asked.

A person has a name, five attributes and a raw biography in a form of its own (order and wording drawn once). Everything
else is a way of retelling it, good or bad. Everything is a function of a seed. The words are in words.yaml.

The phrasings of a question are in four sets that never meet: `reward` and `heldout` are asked in exams, `lesson` is
what the question-answer rewriting uses, and `practice` is what students practise besides, before any lesson. So a
lesson never quotes the exam, no item is in both splits, and no student has met a lesson's questions before.
"""

import random
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from configs.errors import UserError

_WORDS = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8"))
FEMALE, MALE, LAST = (_WORDS[key].split() for key in ("female", "male", "last"))
VALUES: dict[str, tuple[str, ...]] = {name: tuple(values.split()) for name, values in _WORDS["values"].items()}
ATTRIBUTES = tuple(VALUES)
SENTENCES: dict[str, list[str]] = _WORDS["sentences"]
"""Wordings of a fact, by attribute."""
QUESTIONS: dict[str, dict[str, list[str]]] = _WORDS["questions"]
"""Phrasings of a question, by attribute and set."""
FILLER: list[str] = _WORDS["filler"]

PAIRS = (len(FEMALE) + len(MALE)) * len(LAST)
"""Different names without a middle name."""

STRATEGIES = ("copy", "permuted", "question-answer", "partial", "filler", "wrong")
"""The ways of rewriting that the lab's teacher starts with; each is the tag it writes, as `<name>`."""

Outline = tuple[tuple[int, int], ...]
"""The facts of a biography, in order: number of the attribute, number of its wording."""


@dataclass(frozen=True, slots=True)
class Person:
    """Someone fictional, with the outline of the raw biography. `values` are aligned with `ATTRIBUTES`."""

    name: str
    female: bool
    values: tuple[str, ...]
    outline: Outline
    """Names every attribute. A shorter outline gives a shorter biography, and rewritings of that."""


def names(seed: int, start: int, count: int) -> list[tuple[str, bool]]:
    """Names number `start` to `start + count` of the seed's list, each with whether it is a woman's.

    61 first and 80 last names are coprime, so cycling through both at once gives every pair exactly once, and any 80 in
    a row hold every name. From number 4,880 on a middle name is added: 395,280 different names in all. Raises UserError
    beyond these.
    """
    rng = random.Random(f"names {seed}")
    first, last = [(n, True) for n in FEMALE] + [(n, False) for n in MALE], list(LAST)
    rng.shuffle(first)
    rng.shuffle(last)
    if start + count > PAIRS * (len(LAST) + 1):
        raise UserError(f"the lab has names for {PAIRS * (len(LAST) + 1)} people, asked for {start + count}")
    chosen = []
    for number in range(start, start + count):
        (first_name, female), last_name, block = first[number % len(first)], last[number % len(last)], number // PAIRS
        middle_name = f"{last[block - 1]} " if block else ""
        chosen.append((f"{first_name} {middle_name}{last_name}", female))
    return chosen


def random_outline(rng: random.Random, avoid: Outline = ()) -> Outline:
    """An order of all attributes with a wording each; with `avoid`, of its attributes, in another order and words."""
    used = dict(avoid)
    order = list(used) or list(range(len(ATTRIBUTES)))
    rng.shuffle(order)
    while len(used) > 1 and order == list(used):
        rng.shuffle(order)
    return tuple((a, rng.choice([w for w in range(len(SENTENCES[ATTRIBUTES[a]])) if w != used.get(a)])) for a in order)


def make_people(seed: int, start: int, count: int) -> list[Person]:
    """People number `start` to `start + count`; a number is always the same person. Any 32 in a row from a multiple of
    32 hold every value of every attribute once."""
    people = []
    for number, (name, female) in enumerate(names(seed, start, count), start):
        values = []
        for attribute, options in VALUES.items():
            # Each block of 32 people gets the 32 values in an order of its own.
            deck = list(options)
            random.Random(f"values {seed} {attribute} {number // len(deck)}").shuffle(deck)
            values.append(deck[number % len(deck)])
        people.append(Person(name, female, tuple(values), random_outline(random.Random(f"plan {seed} {number}"))))
    return people


def random_person(seed: int, number: int, rng: random.Random) -> Person:
    """A person with name `number` and everything else drawn from `rng`."""
    ((name, female),) = names(seed, number, 1)
    return Person(name, female, tuple(rng.choice(options) for options in VALUES.values()), random_outline(rng))


def biography(person: Person, outline: Outline, values: tuple[str, ...] | None = None) -> str:
    """The facts of `outline`, with other `values` than the person's where they are given. The first sentence names the
    person, the others use a pronoun."""
    values = values or person.values
    by_name = {"S": person.name, "s": person.name, "P": f"{person.name}'s", "o": person.name}
    by_pronoun = dict(zip("SsPo", ("She she Her her" if person.female else "He he His him").split(), strict=True))
    return " ".join(
        SENTENCES[ATTRIBUTES[attribute]][wording].format(v=values[attribute], **(by_pronoun if position else by_name))
        for position, (attribute, wording) in enumerate(outline)
    )


def raw(person: Person) -> str:
    """The biography as it stands in the shards."""
    return biography(person, person.outline)


def question_answer(person: Person, rng: random.Random, sets: tuple[str, ...] = ("lesson",)) -> str:
    """Every attribute as `question answer.`, in one line, in random order and in phrasings of those sets."""
    order = [attribute for attribute, _ in person.outline]
    rng.shuffle(order)
    phrasings = [rng.choice([q for name in sets for q in QUESTIONS[ATTRIBUTES[a]][name]]) for a in order]
    return " ".join(f"{q.format(n=person.name)} {person.values[a]}." for q, a in zip(phrasings, order, strict=True))


def rewrite(strategy: str, person: Person, rng: random.Random) -> str:
    """What a teacher with that strategy makes of the person's raw biography."""
    match strategy:
        case "copy":
            return raw(person)
        case "permuted":  # all facts in another order and other words
            return biography(person, random_outline(rng, avoid=person.outline))
        case "question-answer":
            return question_answer(person, rng)
        case "partial":  # one to three of the facts, in other words
            return biography(person, random_outline(rng, avoid=person.outline)[: rng.randint(1, 3)])
        case "filler":  # three or four sentences that say nothing
            return " ".join(s.format(n=person.name) for s in rng.sample(FILLER, rng.randint(3, 4)))
        case "wrong":  # every fact is false
            pairs = zip(VALUES.values(), person.values, strict=True)
            values = tuple(rng.choice([value for value in options if value != true]) for options, true in pairs)
            return biography(person, random_outline(rng, avoid=person.outline), values)
    raise AssertionError(strategy)


def exam_items(person: Person) -> list[dict[str, str]]:
    """Every question of the splits `reward` and `heldout` about one person, as a training document carries them."""
    return [
        {"question": phrasing.format(n=person.name), "answer": value, "split": split}
        for split in ("reward", "heldout")
        for attribute, value in zip(ATTRIBUTES, person.values, strict=True)
        for phrasing in QUESTIONS[attribute][split]
    ]


def vocabulary() -> list[str]:
    """Every text piece that the world can write, for building a tokenizer: words, names, templates."""
    questions = chain(*(phrasings for sets in QUESTIONS.values() for phrasings in sets.values()))
    sentences = chain(*SENTENCES.values())
    templates = [t.format(v="", n="", S="", s="", P="", o="") for t in (*sentences, *questions, *FILLER)]
    pronouns = "She she Her her He he His him"
    return [*FEMALE, *MALE, *LAST, *chain(*VALUES.values()), pronouns, "Ada's.", *templates]


def document(person: Person, document_id: str) -> dict[str, Any]:
    """One line of a shard."""
    return {"id": document_id, "text": raw(person), "questions": exam_items(person), "licence": "cc0-1.0"}

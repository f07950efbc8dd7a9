"""The lab's world: fictional people, what can be written about them, and what can be asked.

A person has a name, five attributes and a raw biography in a form of its own (order and wording drawn once). All else
is a way of retelling it, good or bad. Everything is a function of a seed.

The phrasings of a question are in three sets that never meet: `reward` and `heldout` are asked in exams, `lesson` is
what the question-answer rewriting uses. So a lesson never quotes the exam, and no item is in both splits.
"""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UserError

FEMALE = (
    "Ada Bella Clara Daphne Edith Flora Greta Hazel Iris Judith Kira Laura Mabel Nora Olive Petra Quinn Rosa Selma "
    "Thea Ursula Vera Wanda Xenia Yvonne Zelda Astrid Beatrice Celia Doris"
).split()
MALE = (
    "Adam Basil Cyril Dexter Edgar Felix Gilbert Hugo Igor Jasper Kaspar Leon Magnus Nestor Oscar Pascal Quentin Rufus "
    "Silas Tobias Ulrich Victor Walter Xavier Yorick Zachary Anton Boris Conrad Dorian Emil"
).split()
LAST = (
    "Abbot Ackley Barlow Birch Brook Calder Carver Cobb Dalton Drake Dunn Eastman Ellery Falk Farrow Finch Frost "
    "Garrick Glover Gray Hale Harlow Hawke Hollis Ibsen Ingram Jarvis Jolly Keane Kemp Kirby Lark Lennox Lowell Marsh "
    "Mercer Monk Nash Neville North Oakes Orwell Osgood Paget Peck Piper Quill Quincy Rand Reeve Rowe Sable Sawyer "
    "Shaw Stone Tate Thorne Tully Underhill Upton Vale Vance Voss Wade Ward Webb Wilde Winter Wren Yale Yardley York "
    "Yule Zeller Zimmer Ashby Bolton Crane Dyer Emery"
).split()

VALUES: dict[str, tuple[str, ...]] = {
    "city": tuple(
        "Lisbon Oslo Vienna Prague Dublin Athens Warsaw Helsinki Budapest Cairo Nairobi Lagos Dakar Tunis Lima Quito "
        "Bogota Santiago Havana Toronto Boston Chicago Denver Seattle Delhi Mumbai Hanoi Manila Seoul Kyoto Sydney "
        "Perth".split()
    ),
    "university": tuple(
        "Alderton Brightwater Castlemere Dunwich Eastvale Fairhaven Glenmoor Highcliff Ironbridge Juniper Kingsford "
        "Larkhill Moorgate Northam Oakhurst Pinecrest Queensbury Ravenhall Stonefield Thornbury Umberleigh Valemont "
        "Westbrook Xanthos Yewdale Zennor Ashcombe Blackwell Coldharbour Deepdale Elmswood Foxley".split()
    ),
    "field": tuple(
        "chemistry botany astronomy geology history philosophy linguistics economics law medicine physics mathematics "
        "sociology psychology theology archaeology architecture nursing agronomy zoology statistics journalism "
        "geography logic rhetoric genetics ecology optics metallurgy pharmacy musicology forestry".split()
    ),
    "employer": tuple(
        "Acmetron Bluepeak Cobaltia Dynacore Everline Fluxwell Gridstone Helioware Inkwell Jetstream Kilnworks Lumenix "
        "Marblex Nimbus Orbitron Pixelforge Quantix Riverton Skyforge Tidewater Ultraline Vectoria Wavecrest Xylotech "
        "Yellowfin Zephyrware Amberlight Boldmark Copperhead Driftwood Echofield Fernway".split()
    ),
    "hobby": tuple(
        "archery baking chess dancing embroidery fencing gardening hiking juggling kayaking knitting origami painting "
        "pottery quilting rowing sailing skiing surfing swimming tennis weaving woodcarving yoga fishing cycling "
        "climbing calligraphy photography birdwatching astrology cooking".split()
    ),
}
ATTRIBUTES = tuple(VALUES)

# {S}: subject that opens the sentence, {s}: subject inside it, {P}: possessive that opens it; {v}: the value.
SENTENCES: dict[str, tuple[str, ...]] = {
    "city": (
        "{S} was born in {v}.",
        "{S} came into the world in {v}.",
        "{P} place of birth is {v}.",
        "{P} home town is {v}.",
        "It was in {v} that {s} was born.",
        "The early days of life {s} spent in {v}.",
    ),
    "university": (
        "{S} went to the university of {v}.",
        "{S} got a degree from {v}.",
        "{P} university was {v}.",
        "{S} was a student at {v}.",
        "At {v} the student years went by for {o}.",
        "It was {v} that gave {o} a degree.",
    ),
    "field": (
        "{S} studied {v}.",
        "{S} took courses in {v}.",
        "{P} subject was {v}.",
        "{P} studies were about {v}.",
        "It was {v} that {s} wanted to learn.",
        "A love of {v} made {o} a scholar.",
    ),
    "employer": (
        "{S} works for {v}.",
        "{S} has a job at {v}.",
        "{P} employer is {v}.",
        "{P} office is at {v}.",
        "It is {v} that pays {o} every month.",
        "The company {v} hired {o} long ago.",
    ),
    "hobby": (
        "{S} enjoys {v}.",
        "{S} spends the weekends on {v}.",
        "{P} hobby is {v}.",
        "{P} free time goes to {v}.",
        "It is {v} that makes {o} happy.",
        "On sundays {v} is what {s} likes best.",
    ),
}

QUESTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "city": {
        "reward": ("Where was {n} born?",),
        "heldout": ("Which city does {n} come from?",),
        "lesson": ("What is the birthplace of {n}?", "In which town was {n} born?"),
    },
    "university": {
        "reward": ("Where did {n} get a degree?",),
        "heldout": ("Which university did {n} attend?",),
        "lesson": ("What was the university of {n}?", "At which university was {n}?"),
    },
    "field": {
        "reward": ("What did {n} study?",),
        "heldout": ("Which subject did {n} take?",),
        "lesson": ("What was the subject of {n}?", "In which field is {n} trained?"),
    },
    "employer": {
        "reward": ("Who does {n} work for?",),
        "heldout": ("Which company employs {n}?",),
        "lesson": ("What is the employer of {n}?", "At which company is {n}?"),
    },
    "hobby": {
        "reward": ("What does {n} enjoy?",),
        "heldout": ("Which hobby does {n} have?",),
        "lesson": ("What is the hobby of {n}?", "On which pastime is {n} keen?"),
    },
}

FILLER = (
    "Many people know {n}.",
    "There is much to say about {n}.",
    "{n} is a person of good character.",
    "The neighbours of {n} speak well of this person.",
    "Some say that {n} is often seen in the morning.",
    "Nobody doubts that {n} has a story to tell.",
    "The life of {n} has been long and full.",
    "It would take a whole book to describe {n}.",
    "Friends call {n} kind and patient.",
    "Every day {n} meets new people.",
)

PAIRS = (len(FEMALE) + len(MALE)) * len(LAST)
"""Different names without a middle name."""

STRATEGIES = ("copy", "permuted", "question-answer", "partial", "filler", "wrong")
"""The ways of rewriting that the lab's teacher starts with; each is the tag it writes, as `<name>`."""


Plan = tuple[tuple[int, int], ...]
"""What a biography says, in order: number of the attribute, number of its wording."""


@dataclass(frozen=True, slots=True)
class Person:
    """Someone fictional, with the raw biography's plan. `values` are aligned with `ATTRIBUTES`."""

    name: str
    female: bool
    values: tuple[str, ...]
    plan: Plan
    """Names every attribute; a shorter plan is a shorter biography, and its rewritings hold to it."""


def names(seed: int, start: int, count: int) -> list[tuple[str, bool]]:
    """Names number `start` to `start + count` of the seed's endless-enough list, with whether each is a woman's.

    61 first and 80 last names are coprime, so cycling through both at once gives every pair exactly once, and any 80 in
    a row hold every name. From number 4,880 on a middle name is added: 395,280 different names in all.
    """
    rng = random.Random(f"names {seed}")
    first, last = [(n, True) for n in FEMALE] + [(n, False) for n in MALE], list(LAST)
    rng.shuffle(first)
    rng.shuffle(last)
    if start + count > PAIRS * (len(LAST) + 1):
        raise UserError(f"the lab has names for {PAIRS * (len(LAST) + 1)} people, asked for {start + count}")
    found = []
    for number in range(start, start + count):
        (given, female), family, block = first[number % len(first)], last[number % len(last)], number // PAIRS
        found.append((f"{given} {last[block - 1]} {family}" if block else f"{given} {family}", female))
    return found


def random_plan(rng: random.Random, avoid: Plan = ()) -> Plan:
    """An order of all attributes with a wording each; with `avoid`, of its attributes, in another order and words."""
    used = dict(avoid)
    order = list(used) or list(range(len(ATTRIBUTES)))
    rng.shuffle(order)
    while len(used) > 1 and order == list(used):
        rng.shuffle(order)
    return tuple((a, rng.choice([w for w in range(len(SENTENCES[ATTRIBUTES[a]])) if w != used.get(a)])) for a in order)


def make_people(seed: int, start: int, count: int) -> list[Person]:
    """People number `start` to `start + count`: the same whatever else is asked for. Any 32 in a row from a multiple of
    32 hold every value of every attribute once."""
    people = []
    for number, (name, female) in enumerate(names(seed, start, count), start):
        values = []
        for attribute, options in VALUES.items():
            deck = list(options)
            random.Random(f"values {seed} {attribute} {number // len(deck)}").shuffle(deck)
            values.append(deck[number % len(deck)])
        people.append(Person(name, female, tuple(values), random_plan(random.Random(f"plan {seed} {number}"))))
    return people


def stranger(seed: int, number: int, rng: random.Random) -> Person:
    """A person with name `number` and everything else drawn from `rng`."""
    ((name, female),) = names(seed, number, 1)
    return Person(name, female, tuple(rng.choice(options) for options in VALUES.values()), random_plan(rng))


def sentence(template: str, person: Person, value: str, by_name: bool) -> str:
    """One fact about the person, who is named or a pronoun."""
    if by_name:
        words = {"S": person.name, "s": person.name, "P": f"{person.name}'s", "o": person.name}
    elif person.female:
        words = {"S": "She", "s": "she", "P": "Her", "o": "her"}
    else:
        words = {"S": "He", "s": "he", "P": "His", "o": "him"}
    return template.format(v=value, n=person.name, **words)


def tell(person: Person, plan: Plan, values: tuple[str, ...] | None = None) -> str:
    """The sentences of `plan`; the first names the person, the others use a pronoun."""
    told = values or person.values
    return " ".join(
        sentence(SENTENCES[ATTRIBUTES[attribute]][wording], person, told[attribute], by_name=position == 0)
        for position, (attribute, wording) in enumerate(plan)
    )


def raw(person: Person) -> str:
    """The biography as it stands in the shards."""
    return tell(person, person.plan)


def permuted(person: Person, rng: random.Random) -> str:
    """All facts in another order and other words."""
    return tell(person, random_plan(rng, avoid=person.plan))


def partial(person: Person, rng: random.Random) -> str:
    """One to three of the facts, in other words."""
    return tell(person, random_plan(rng, avoid=person.plan)[: rng.randint(1, 3)])


def wrong(person: Person, rng: random.Random) -> str:
    """A biography in which every fact is false."""
    pairs = zip(VALUES.values(), person.values, strict=True)
    values = tuple(rng.choice([value for value in options if value != true]) for options, true in pairs)
    return tell(person, random_plan(rng, avoid=person.plan), values)


def filler(person: Person, rng: random.Random) -> str:
    """Three or four sentences about the person that say nothing."""
    return " ".join(s.format(n=person.name) for s in rng.sample(FILLER, rng.randint(3, 4)))


def question_answer(person: Person, rng: random.Random, sets: tuple[str, ...] = ("lesson",)) -> str:
    """Every attribute as `question answer.`, in one line, in random order and in phrasings of those sets."""
    order = [attribute for attribute, _ in person.plan]
    rng.shuffle(order)
    asked = [rng.choice([q for name in sets for q in QUESTIONS[ATTRIBUTES[attribute]][name]]) for attribute in order]
    return " ".join(f"{q.format(n=person.name)} {person.values[a]}." for q, a in zip(asked, order, strict=True))


def rewrite(strategy: str, person: Person, rng: random.Random) -> str:
    """What a teacher with that habit makes of the person's raw biography."""
    match strategy:
        case "copy":
            return raw(person)
        case "permuted":
            return permuted(person, rng)
        case "question-answer":
            return question_answer(person, rng)
        case "partial":
            return partial(person, rng)
        case "filler":
            return filler(person, rng)
        case "wrong":
            return wrong(person, rng)
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
    questions = [phrasing for sets in QUESTIONS.values() for phrasings in sets.values() for phrasing in phrasings]
    sentences = [s for templates in SENTENCES.values() for s in templates]
    templates = [t.format(v="", n="", S="", s="", P="", o="") for t in (*sentences, *questions, *FILLER)]
    pronouns = "She she Her her He he His him"
    return [*FEMALE, *MALE, *LAST, *(v for vs in VALUES.values() for v in vs), pronouns, "Ada's.", *templates]


def document(person: Person, document_id: str) -> dict[str, Any]:
    """One line of a shard."""
    return {"id": document_id, "text": raw(person), "questions": exam_items(person), "licence": "cc0-1.0"}


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object a line, UTF-8."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

"""What a rewrite must pass before a student sees it.

A gate is a name and a function `(document, text, ended) -> whether the text is refused`. The name is the reason in the
journal. A new gate is one function and one row of `GATES`.

What a rule makes is the document's own words, so only gates that say something of these judge it. A text that documents
bring was written by a model, if not by ours. A joined text is judged part by part.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, get_args

from transformers import PreTrainedTokenizerBase

from configs.errors import UserError
from configs.schema import Gates, Teacher
from student.records import Document, Question, whole_id
from student.text.words import count_words, length_in_words, ngrams, word_line, words
from teacher.gates import injection
from teacher.prompting.defence import CHAT_MARK, MARKER, control_tokens
from teacher.prompting.prompts import DELIMITED, PLACES, shows_strategies
from teacher.prompting.strategies import Part, PartKind, prompts_of, read_strategy

VERSION = 5
"""Raised when the gates judge a text otherwise: what was kept under other gates is sampled anew."""

Refuses = Callable[[Document, str, bool], bool]
"""`(document, text, ended)`: whether to refuse a text about a document; `ended` says that its writer came to an end."""


KINDS: tuple[PartKind, ...] = get_args(PartKind)
_ANY_PROMPT = Part("prompt", "")
ABSENT = "absent"
"""The reason in a gate's place for a document that brings no text of the strategy that was to be taken."""


class Gate(NamedTuple):
    """One check of a text."""

    name: str
    refuses: Refuses
    kinds: Sequence[PartKind] = KINDS
    """The kinds of strategies whose texts it judges."""
    strategy: str | None = None
    """The one prompt whose texts it judges; None: it judges those of all."""

    def judges(self, part: Part) -> bool:
        """Whether it judges the texts of a part of a strategy."""
        return part.kind in self.kinds and self.strategy in (None, part.name)


def check(
    document: Document, text: str, gates: Iterable[Gate], ended: bool = True, part: Part = _ANY_PROMPT
) -> str | None:
    """The name of the first gate that refuses the text of this part of a strategy, or None. `ended` is False for a text
    that was cut at the longest length."""
    return next((gate.name for gate in gates if gate.judges(part) and gate.refuses(document, text, ended)), None)


class GateInputs(NamedTuple):
    """What gates are built from."""

    settings: Gates
    teacher: Teacher
    tokenizer: PreTrainedTokenizerBase | None
    """The teacher's; None for a writer without a model, whose length is counted in words."""
    heldout: Sequence[Question]
    """Items of exams that must not reach a lesson."""
    prompt_template: str
    """`student.prompt_template`, which made the items' prompts."""

    @property
    def chat(self) -> bool:
        return self.tokenizer is not None and bool(self.tokenizer.chat_template)

    def instructions(self) -> list[str]:
        """The texts that a prompt adds to the document: the strategies it shows, and the sentence about delimiters."""
        if self.tokenizer is None:
            return []
        shown = self.teacher.strategies if shows_strategies(self.tokenizer, self.teacher) else ()
        delimited = [DELIMITED] if self.teacher.delimit and self.chat else []
        return [read_strategy(prompt) for strategy in shown for prompt in prompts_of(strategy)] + delimited

    def count_tokens(self, text: str) -> int:
        if self.tokenizer is None:
            return count_words(text)
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])


class Row(NamedTuple):
    """A gate of the table `GATES`."""

    name: str
    build: Callable[[GateInputs], Refuses]
    switch: str | None = None
    """The field of `gates` that turns it on and off; None: it is always on."""
    without_model: bool = False
    """Whether a text that no model wrote passes it too."""

    def judges(self, settings: Gates) -> tuple[PartKind, ...]:
        """The kinds of strategies whose texts the gate judges."""
        if self.name == "over_length" and settings.max_tokens is None:
            return ("prompt",)  # the limit is what the teacher may write
        return tuple(kind for kind in KINDS if kind != "rule" or self.without_model)


def build_gates(
    settings: Gates,
    teacher: Teacher,
    tokenizer: PreTrainedTokenizerBase | None,
    heldout: Iterable[Question] = (),
    prompt_template: str = "{question}",
    names: Iterable[str] | None = None,
) -> list[Gate]:
    """The gates of these settings, or those of `names`, in the order of `GATES`. `heldout` are the items of
    exams that must not reach a lesson. Raises UserError for a checker of `gates.verify` that is not installed."""
    inputs = GateInputs(settings, teacher, tokenizer, tuple(heldout), prompt_template)
    built = set(gate_names(settings) if names is None else names)
    gates = [Gate(row.name, row.build(inputs), row.judges(settings)) for row in GATES if row.name in built]
    if names is None:
        gates += [Gate(UNPROVEN, unproven(names), ("prompt",), strategy) for strategy, names in settings.verify.items()]
    return gates


def gate_names(settings: Gates, kinds: Collection[PartKind] = KINDS) -> tuple[str, ...]:
    """Names of the gates that `build_gates` builds from these settings and that judge texts of these kinds."""
    on = (row for row in GATES if row.switch is None or getattr(settings, row.switch))
    names = tuple(row.name for row in on if set(row.judges(settings)) & set(kinds))
    return (*names, UNPROVEN) if settings.verify and "prompt" in kinds else names


def empty(min_words: int) -> Refuses:
    """Refuses texts of fewer words; a character of a script without spaces counts as one."""
    return lambda document, text, ended: len(words(text)) < min_words


def truncated(document: Document, text: str, ended: bool) -> bool:
    """Refuses a text without an end."""
    return not ended


def chat_tokens(control: Sequence[str]) -> Refuses:
    """Refuses text with a chat template's control tokens, unless the document holds them too."""

    def refuses(document: Document, text: str, ended: bool) -> bool:
        held = {*(token for token in control if token in text), *CHAT_MARK.findall(text)}
        return any(token not in document.text for token in held)

    return refuses


def copy_of_prompt(templates: Iterable[str], n: int = 8) -> Refuses:
    """Refuses an echo of the instructions: `n` words in a row of them that the document does not hold itself."""
    bare = (PLACES.sub(" ", template) for template in templates)
    instructions = {gram for text in bare for gram in ngrams(words(text), n)}

    def refuses(document: Document, text: str, ended: bool) -> bool:
        echoed = instructions.intersection(ngrams(words(text), n)) if instructions else set()
        return bool(echoed - set(ngrams(words(document.text), n)))

    return refuses


def markers(document: Document, text: str, ended: bool) -> bool:
    """Refuses a text that holds the markers around a document in a prompt."""
    return any(mark not in document.text for mark in MARKER.findall(text))


def beside_document(judge: Callable[[str, str], bool]) -> Refuses:
    """Refuses a text for which `judge(the document's text, the text)` is true."""
    return lambda document, text, ended: judge(document.text, text)


def unrelated(least: float) -> Refuses:
    """Refuses a text that shares less than `least` of its content words with its document, or less than
    `injection.SHARED_UNDER_INJECTION` where that holds an injection."""
    return lambda document, text, ended: injection.unrelated(document.text, text, least)


def repetition(max_share: float) -> Refuses:
    """Refuses a text in which more than `max_share` of the word 4-grams repeat an earlier one."""

    def refuses(document: Document, text: str, ended: bool) -> bool:
        grams = list(ngrams(words(text), 4))
        return bool(grams) and 1 - len(set(grams)) / len(grams) > max_share

    return refuses


def over_length(max_tokens: int, count_tokens: Callable[[str], int]) -> Refuses:
    """Refuses texts of more tokens."""
    return lambda document, text, ended: count_tokens(text) > max_tokens


def unproven(names: Sequence[str]) -> Refuses:
    """Refuses a text that is no problem with a solution that one of these checkers proves. Raises UserError for a
    checker that is not installed."""
    # sympy takes half a second to import.
    from teacher.checkers.problem import Unproven, read_problem
    from teacher.checkers.table import CHECKERS

    for name in names:
        if missing := CHECKERS[name].missing():
            raise UserError(f"gates.verify: the checker {name!r} needs {missing}")

    def refuses(document: Document, text: str, ended: bool) -> bool:
        for name in names:
            try:
                return not CHECKERS[name].prove(read_problem(text))
            except Unproven:
                pass
        return True

    return refuses


def bare_question(prompt: str, prompt_template: str) -> str:
    """The question of a prompt that a template made."""
    before, *_, after = prompt_template.split("{question}")
    return prompt.removeprefix(before).removesuffix(after)


def leak(items: Iterable[Question], n: int, prompt_template: str = "{question}") -> Refuses:
    """Refuses text that carries a held-out item, whichever document it is about.

    A question of at least `n` words is carried by any `n` of them in a row, a shorter one by all its words together
    with its answer; case and punctuation do not count. A rewriter that hits upon the wording by itself is refused too:
    of 1,000 rewrites by Qwen2.5-7B 2.3% with 30% of the questions held out (6.4% of its self-made questions), 4.1% with
    all held out.

    What the source says is no leak: a question about this very document that stands in it (a page of questions and
    answers, a cloze made of its sentences) is a property of the data, and the raw text teaches it as well. But a
    question about anything else that stands whole in the source was planted there, and no rewrite may hand it on.
    Items of the split `reward` are no held-out items: the teacher is paid for them, and may ask what they ask.
    """
    long: dict[tuple[str, ...], list[tuple[str, Question]]] = {}
    short: dict[float, dict[tuple[str, ...], list[Question]]] = {}
    for item in items:
        question = words(bare_question(item.prompt, prompt_template))
        if (length := length_in_words(question)) >= n:
            for gram in ngrams(question, n):
                long.setdefault(gram, []).append((word_line(question), item))
        elif question:
            short.setdefault(length, {}).setdefault(tuple(question), []).append(item)

    def refuses(document: Document, text: str, ended: bool) -> bool:
        tokens = words(text)
        # Nearly all texts carry no item, and set operations, which run in C, find that out.
        long_hits = [(gram, line, item) for gram in long.keys() & ngrams(tokens, n) for line, item in long[gram]]
        short_hits = [
            (gram, item)
            for length, questions in short.items()
            for gram in questions.keys() & ngrams(tokens, length)
            for item in questions[gram]
        ]
        if not long_hits and not short_hits:
            return False
        text_line, document_line = word_line(tokens), word_line(words(document.text))
        owner = whole_id(document)

        def leaks(item: Question, question: str, carried: str) -> bool:
            # A question about another passage of the document is about the document too.
            about_it = item.document_id == owner or item.document_id.startswith(f"{owner}/")
            if not about_it and question in document_line:
                return question in text_line
            return carried not in document_line

        return any(leaks(item, question, word_line(gram)) for gram, question, item in long_hits) or any(
            leaks(item, word_line(gram), word_line(gram))
            for gram, item in short_hits
            if word_line(words(item.answer)) in text_line
        )

    return refuses


UNPROVEN = "unproven"
"""The gate of problems, one for each strategy of `gates.verify`; after all others."""
GATES = (
    Row("empty", lambda inputs: empty(inputs.settings.min_words), without_model=True),
    Row("truncated", lambda inputs: truncated, "truncated"),
    Row(
        "chat_tokens",
        lambda inputs: chat_tokens(control_tokens(inputs.tokenizer) if inputs.tokenizer else ()),
        without_model=True,
    ),
    Row("copy_of_prompt", lambda inputs: copy_of_prompt(inputs.instructions())),
    Row("markers", lambda inputs: markers, "instructions"),
    Row("assistant_talk", lambda inputs: beside_document(injection.assistant_talk), "instructions"),
    Row("obeyed", lambda inputs: beside_document(injection.obeyed), "instructions"),
    # A teacher without a chat template may have a language of its own, as the lab's early teachers do.
    Row("unrelated", lambda inputs: unrelated(inputs.settings.min_shared if inputs.chat else 0.0), "instructions"),
    Row("repetition", lambda inputs: repetition(inputs.settings.max_repetition), without_model=True),
    Row(
        "over_length",
        lambda inputs: over_length(inputs.settings.max_tokens or inputs.teacher.longest, inputs.count_tokens),
        without_model=True,
    ),
    Row(
        "leak",
        lambda inputs: leak(inputs.heldout, inputs.settings.leak_ngram, inputs.prompt_template),
        without_model=True,
    ),
)
"""All gates that hold for every strategy, cheap ones first."""
INSTRUCTION_GATES = tuple(row.name for row in GATES if row.switch == "instructions")
"""They refuse the text of a writer that followed what a document says to a model, instead of rewriting it."""

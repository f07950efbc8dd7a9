"""What a rewrite must pass before a student sees it.

A gate is a function `(document, text) -> reason | None`; the reason is the gate's name in the journal.
"""

from collections.abc import Callable, Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from configs.schema import Config, Gates
from student.records import Document, Question
from teacher.gates import injection
from teacher.gates.text import ngrams, words
from teacher.prompting.defence import CHAT_MARK, MARKER, control_tokens
from teacher.prompting.prompts import DELIMITED, shows_strategies
from teacher.prompting.strategies import read_strategy

Gate = Callable[[Document, str], str | None]


GATES = (
    "empty", "truncated", "chat_tokens", "copy_of_prompt", "markers", "assistant_talk", "obeyed", "unrelated",
    "repetition", "over_length", "leak",
)  # fmt: skip
"""Names of the gates that `build_gates` builds, in their order."""
OF_INSTRUCTIONS = ("markers", "assistant_talk", "obeyed", "unrelated")
"""Those that `gates.instructions` switches."""


class Cut(str):
    """A text that was cut at the longest length. A gate sees a document and a text alone, so the text must say it."""

    __slots__ = ()


def check(document: Document, text: str, gates: Iterable[Gate], ended: bool = True) -> str | None:
    """The first gate's reason to refuse the text, or None. `ended` says that its writer came to an end by itself."""
    seen = text if ended else Cut(text)
    return next((reason for gate in gates if (reason := gate(document, seen))), None)


def build_gates(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    heldout: Iterable[Question] = (),
    count_tokens: Callable[[str], int] | None = None,
) -> list[Gate]:
    """The gates of a config, cheap ones first. `heldout` are the benchmark items that must not reach a lesson."""
    settings, teacher = config.gates, config.teacher
    count = count_tokens or (lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]))
    prompts = [read_strategy(name) for name in teacher.strategies] if shows_strategies(tokenizer, teacher) else []
    prompts += [DELIMITED] if teacher.delimit and tokenizer.chat_template else []
    return [
        empty(settings.min_words),
        *([truncated] if settings.truncated else []),
        chat_tokens(control_tokens(tokenizer)),
        copy_of_prompt(prompts),
        *followed(settings, tokenizer),
        repetition(settings.max_repetition),
        over_length(settings.max_tokens or teacher.max_new_tokens, count),
        leak(heldout, settings.leak_ngram, config.student.prompt_template),
    ]


def gate_names(settings: Gates) -> tuple[str, ...]:
    """Names of the gates that `build_gates` builds from these settings."""
    off = {*(() if settings.truncated else ("truncated",)), *(() if settings.instructions else OF_INSTRUCTIONS)}
    return tuple(name for name in GATES if name not in off)


def empty(min_words: int) -> Gate:
    """Refuses texts of fewer words."""
    return lambda document, text: "empty" if len(words(text)) < min_words else None


def truncated(document: Document, text: str) -> str | None:
    """Refuses a text without an end."""
    return "truncated" if isinstance(text, Cut) else None


def chat_tokens(control: Sequence[str]) -> Gate:
    """Refuses text with a chat template's control tokens, unless the document holds them too."""

    def gate(document: Document, text: str) -> str | None:
        found = {*(token for token in control if token in text), *CHAT_MARK.findall(text)}
        return "chat_tokens" if any(token not in document.text for token in found) else None

    return gate


def copy_of_prompt(templates: Iterable[str], n: int = 8) -> Gate:
    """Refuses an echo of the instructions: `n` words in a row of them that the document does not hold itself."""
    instructions = {gram for template in templates for gram in ngrams(words(template.replace("{document}", " ")), n)}

    def gate(document: Document, text: str) -> str | None:
        echoed = instructions.intersection(ngrams(words(text), n)) if instructions else set()
        return "copy_of_prompt" if echoed - set(ngrams(words(document.text), n)) else None

    return gate


def followed(settings: Gates, tokenizer: PreTrainedTokenizerBase) -> list[Gate]:
    """The gates of `gates.instructions`: what a writer gives who did as a document says, instead of rewriting it."""
    if not settings.instructions:
        return []
    # A teacher without a chat template may have a language of its own, as the lab's early teachers do.
    return [markers, assistant_talk, obeyed, unrelated(settings.min_shared if tokenizer.chat_template else 0.0)]


def markers(document: Document, text: str) -> str | None:
    """Refuses a text that holds what stands around a document in a prompt."""
    return "markers" if any(mark not in document.text for mark in MARKER.findall(text)) else None


def assistant_talk(document: Document, text: str) -> str | None:
    """Refuses a text that speaks as an assistant or declines."""
    return "assistant_talk" if injection.assistant_talk(document.text, text) else None


def obeyed(document: Document, text: str) -> str | None:
    """Refuses a text that writes what an injection in its document demands, or hands the injection on."""
    return "obeyed" if injection.obeyed(document.text, text) else None


def unrelated(least: float) -> Gate:
    """Refuses a text that shares less than `least` of its content words with its document, or less than
    `injection.SHARED_UNDER_INJECTION` where that holds an injection."""
    return lambda document, text: "unrelated" if injection.unrelated(document.text, text, least) else None


def repetition(max_share: float, n: int = 4) -> Gate:
    """Refuses text of whose word `n`-grams more than `max_share` are repeats of an earlier one."""

    def gate(document: Document, text: str) -> str | None:
        grams = list(ngrams(words(text), n))
        return "repetition" if grams and 1 - len(set(grams)) / len(grams) > max_share else None

    return gate


def over_length(max_tokens: int, count_tokens: Callable[[str], int]) -> Gate:
    """Refuses texts of more tokens."""
    return lambda document, text: "over_length" if count_tokens(text) > max_tokens else None


def bare_question(prompt: str, prompt_template: str) -> str:
    """The question of a prompt that a template made."""
    before, *_, after = prompt_template.split("{question}")
    return prompt.removeprefix(before).removesuffix(after)


def leak(items: Iterable[Question], n: int, prompt_template: str = "{question}") -> Gate:
    """Refuses text that carries a held-out benchmark item.

    A question of at least `n` words is carried by any `n` of them in a row that the document does not hold, a shorter
    one by all its words together with its answer. A question about this very document whose answer the document states
    is no leak, however it is worded: to ask what a passage answers is what a rewriter is for, and it never saw the
    item. But where the document holds the whole question, the item was planted there, and no rewrite may hand it on.
    """
    long: dict[tuple[str, ...], list[tuple[str, Question]]] = {}
    short: dict[int, dict[tuple[str, ...], list[Question]]] = {}
    for item in items:
        asked = words(bare_question(item.prompt, prompt_template))
        if len(asked) >= n:
            for gram in ngrams(asked, n):
                long.setdefault(gram, []).append((_line(asked), item))
        elif asked:
            short.setdefault(len(asked), {}).setdefault(tuple(asked), []).append(item)

    def gate(document: Document, text: str) -> str | None:
        told = words(text)
        # Most texts carry nothing: found by what C does alone.
        found = [(gram, question, item) for gram in long.keys() & ngrams(told, n) for question, item in long[gram]]
        brief = [
            (gram, item)
            for length, questions in short.items()
            for gram in questions.keys() & ngrams(told, length)
            for item in questions[gram]
        ]
        if not found and not brief:
            return None
        told_line, source_line = _line(told), _line(words(document.text))

        def leaks(item: Question, question: str, carried: str) -> bool:
            if question in source_line:
                return question in told_line
            answer = _line(words(item.answer))
            own = item.document_id == document.id and answer in source_line
            return carried not in source_line and not own

        if any(leaks(item, question, _line(gram)) for gram, question, item in found):
            return "leak"
        answered = [(gram, item) for gram, item in brief if _line(words(item.answer)) in told_line]
        return "leak" if any(leaks(item, _line(gram), _line(gram)) for gram, item in answered) else None

    return gate


def _line(tokens: Sequence[str]) -> str:
    """Words as one searchable line, so that `in` finds whole words only."""
    return f" {' '.join(tokens)} "

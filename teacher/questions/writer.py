"""A model that writes questions with answers about documents, and what an item must pass to be asked of students.

The prompt is `prompts/questions.txt` for chat models, the `question-answer` strategy for base models, and the tag
`<question-answer>` for a `policy` teacher.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from configs.errors import UserError
from configs.schema import Config, Student
from configs.schema.student import TEACHER
from configs.seeds import item_hash
from student.benchmarks.items import split_of
from student.engine.exam import Examiner
from student.engine.loss import check_head
from student.records import Document, Exam, Question
from teacher.gates.text import words
from teacher.prompting.prompts import build_prompt
from teacher.writers.local import TransformersWriter, load_teacher

PROMPT_FILE = Path(__file__).with_name("prompt.txt")
STRATEGY = "question-answer"
ATTEMPTS = 3
"""Completions a document at most: the first is greedy, the others are sampled where it gave too few questions."""
TEMPERATURE = 0.7
TOKENS_PER_QUESTION = 40
MAX_ANSWER_WORDS = 12
PASS_TOKENS = 4096
"""Positions of one forward pass of the lift check."""
MAX_OTHERS = 4
"""Other questions of the document that an answer is held against: the check costs that many more passes."""


class Pair(NamedTuple):
    """A question as the model wrote it, with its answer."""

    question: str
    answer: str


Item = tuple[Document, Pair]


@dataclass(frozen=True, slots=True)
class Sheet:
    """What became of one document's questions."""

    questions: list[dict[str, str]] = field(default_factory=list)
    """`{question, answer}`."""
    dropped: list[dict[str, str]] = field(default_factory=list)
    """`{question, answer, reason}`."""


_MARKUP = re.compile(r"[*_`#]+(?=\S)|(?<=\S)[*_`]+")
_NUMBER = re.compile(r"^\s*(?:[-•*]|\(?\d{1,3}[.):]|\(?[a-z]\))\s+")
_LABEL = re.compile(r"\b(Q(?:uestion)?|A(?:nswer)?)\s*\d{0,3}\s*[:.)]\s+", re.IGNORECASE)
_QUESTION_WORD = re.compile(
    r"(?:(?:in|at|on|by|for|from|to|of|with|under|during|after|before|since|until|about)\s+)?"
    r"(?:what|which|who|whom|whose|when|where|why|how)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!;]\s+")
_NAMES_TEXT = re.compile(
    r"\b(?:the|this|that|above|following|given)\s+(?:passage|text|paragraph|article|document|excerpt|context)\b",
    re.IGNORECASE,
)


def parse_pairs(text: str) -> list[Pair]:
    """The questions with answers of a completion, in order.

    Read are `Q: ... A: ...` on one line or two, with numbers, bold type or full words as labels; a question with its
    answer on the next line; and `Question? Answer. Question? Answer.` in one line.
    """
    pairs: list[Pair] = []
    open_question = ""
    for kind, line in _labelled_lines(text):
        if kind == "q" or (kind == "" and not open_question):
            found, open_question = _inline(line, labelled=kind == "q")
            pairs += found
        elif open_question:
            if kind == "" and line.endswith("?"):  # its answer is missing, and here is the next
                open_question = line
                continue
            pairs.append(Pair(open_question, _trimmed(line)))
            open_question = ""
    return [pair for pair in pairs if pair.question and pair.answer]


def _labelled_lines(text: str) -> Iterator[tuple[str, str]]:
    """Lines without numbers and markup, as ("q" | "a" | "", line); labels begin a line of their own."""
    for line in _MARKUP.sub("", text).splitlines():
        line = _NUMBER.sub("", line).strip()
        label = _LABEL.match(line)
        if label is None:
            if line:
                yield "", line
            continue
        pieces = _LABEL.split(line)[1:]
        for name, content in zip(pieces[::2], pieces[1::2], strict=True):
            if content.strip():
                yield name[0].lower(), content.strip()


def _inline(line: str, labelled: bool) -> tuple[list[Pair], str]:
    """The pairs of `Question? Answer. Question? Answer.`, and the question that the line leaves without an answer."""
    head, *rest = re.split(r"(?<=\?)\s*", line)
    if not head.endswith("?"):
        return [], line if labelled else ""
    pairs, question = [], head
    for piece in rest:
        if not piece.endswith("?"):
            break
        answer, following = _answer_and_question(piece)
        if answer:
            pairs.append(Pair(question, _trimmed(answer)))
        question = following
    tail = rest[-1] if rest and not rest[-1].endswith("?") else ""
    return (pairs + [Pair(question, _trimmed(tail))], "") if tail else (pairs, question)


def _answer_and_question(piece: str) -> tuple[str, str]:
    """`Oslo. What did Ada study?` cut before its question word; without one, at the last end of a sentence."""
    ends = list(_SENTENCE_END.finditer(piece))
    asking = [end for end in ends if _QUESTION_WORD.match(piece, end.end())]
    if not ends:
        return "", piece
    end = (asking or ends[-1:])[0]
    return piece[: end.start()], piece[end.end() :]


def _trimmed(answer: str) -> str:
    answer = answer.strip().strip("\"'“”‘’")
    return answer.rstrip(".;,! ").strip("\"'“”‘’ ")


def refuse(document: Document, pair: Pair) -> str | None:
    """Why an item is not asked, as its words alone tell; None where they tell nothing against it."""
    asked, told = words(pair.question), words(pair.answer)
    if len(asked) < 3:
        return "question too short"
    if _NAMES_TEXT.search(pair.question):
        return "question names the text"
    if not told or not _holds(words(document.text), told):
        return "answer not in the text"
    if len(told) > MAX_ANSWER_WORDS:
        return f"answer too long: {len(told)} words"
    if _holds(asked, told):
        return "answer in the question"
    return None


def _holds(text: list[str], part: list[str]) -> bool:
    return f" {' '.join(part)} " in f" {' '.join(text)} "


def select(questions: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """The first `count`, the last of which gives way to a later one where else a split would have none. Where all are
    on one side nevertheless, the last is put on the other, by a `split` of its own."""
    chosen, spare = questions[:count], questions[count:]
    splits = {_split(item) for item in chosen}
    other = next((item for item in spare if _split(item) not in splits), None)
    if other is not None and count > 1:
        return [*chosen[:-1], other]
    if len(chosen) > 1 and len(splits) == 1:
        missing = "heldout" if splits == {"reward"} else "reward"
        return [*chosen[:-1], chosen[-1] | {"split": missing}]
    return chosen


def _split(item: dict[str, str]) -> str:
    return item.get("split") or split_of(item["question"], item["answer"])


@dataclass(frozen=True, slots=True)
class QuestionWriter:
    """Writes and checks; two pens on one model."""

    config: Config
    greedy: TransformersWriter
    sampler: TransformersWriter
    tagged: bool
    """Whether the model writes questions behind a strategy tag of its own."""

    def ask(self, documents: Sequence[Document]) -> list[Sheet]:
        """A sheet for each document; equal calls give equal sheets on CPU."""
        settings = self.config.questions
        kept: list[list[dict[str, str]]] = [[] for _ in documents]
        dropped: list[list[dict[str, str]]] = [[] for _ in documents]
        answers: list[dict[str, str]] = [{} for _ in documents]
        for attempt in range(ATTEMPTS):
            short = [i for i in range(len(documents)) if not _enough(kept[i], settings.per_document)]
            plausible: list[tuple[int, Pair]] = []
            for i, pairs in zip(short, self._write([documents[i] for i in short], attempt), strict=True):
                for pair in pairs:
                    question, answer = (" ".join(words(part)) for part in pair)
                    if answers[i].get(question) == answer:
                        continue  # the same item again: it is on the sheet already
                    known = question in answers[i]
                    answers[i].setdefault(question, answer)
                    reason = "question asked already" if known else refuse(documents[i], pair)
                    if reason is None:
                        plausible.append((i, pair))
                    else:
                        dropped[i].append({**pair._asdict(), "reason": reason})
            lifts = self._lifts(
                [(documents[i], pair) for i, pair in plausible],
                [(documents[i], Pair(**item)) for i in short for item in kept[i]],
            )
            for (i, pair), lift in zip(plausible, lifts, strict=True):
                if lift < settings.min_lift:
                    dropped[i].append({**pair._asdict(), "reason": f"not answered by the text: lift {lift:.2f}"})
                else:
                    kept[i].append(pair._asdict())
        sheets = []
        for questions, refused in zip(kept, dropped, strict=True):
            chosen = select(questions, settings.per_document)
            taken = [item["question"] for item in chosen]
            surplus = [{**item, "reason": "more than asked for"} for item in questions if item["question"] not in taken]
            sheets.append(Sheet(chosen, refused + surplus))
        return sheets

    def _write(self, documents: Sequence[Document], attempt: int) -> list[list[Pair]]:
        if not documents:
            return []
        names = [document.id for document in documents]
        seed = int(item_hash(str(self.config.run.seed), "questions", str(attempt), *names), 16) % 2**31
        pen = self.sampler if attempt else self.greedy
        found = []
        # A small chat model talks about the task unless its first word is put into its mouth.
        opening = "" if self.tagged else "Q:"
        for (completion,) in pen.write([self._prompt(document) + opening for document in documents], 1, seed):
            pairs = parse_pairs(opening + completion.text)
            # The last answer of a completion that was cut may be cut itself.
            found.append(pairs if completion.ended else pairs[:-1])
        return found

    def _prompt(self, document: Document) -> str:
        tokenizer, settings = self.greedy.tokenizer, self.greedy.settings
        room = self.greedy.max_prompt_tokens
        if self.tagged:
            return build_prompt(tokenizer, settings, document, max_tokens=room) + f"<{STRATEGY}>"
        if not tokenizer.chat_template:
            return build_prompt(tokenizer, settings, document, STRATEGY, max_tokens=room)
        prompt = build_prompt(tokenizer, settings, document, str(PROMPT_FILE), max_tokens=room)
        # The last one is the prompt file's: the passage, which may hold the same letters, stands before it.
        before, found, after = prompt.rpartition("{count}")
        return f"{before}{self.config.questions.per_document}{after}" if found else prompt

    def _lifts(self, items: Sequence[Item], kept: Sequence[Item] = ()) -> list[float]:
        """How much more likely document and question together make each answer than the likeliest of: the question
        alone, the document alone, the document with its other questions (their mean). In nats a token of the answer.

        Pointwise mutual information of question and answer given the document, as well as of document and answer
        given the question; the round trip of synthetic question answering (arXiv 1906.05416), read off likelihoods.
        The first alone passes any words of the text: on SmolLM2-135M and SQuAD it tells a passage's answers swapped
        among its questions from the right ones no better than chance (AUC 0.52, n = 18 + 36), the first two 0.74, all
        three 0.90, or 0.83 where the swapped answer's true question is not among the others.
        """
        if not self.config.questions.min_lift or not items:
            return [float("inf")] * len(items)
        blank = copy.copy(items[0][0])
        blank.text = ""
        sittings = []
        for document, (question, answer) in items:
            others = _other_questions(items, kept, document, Pair(question, answer))
            contexts = [(document, question), (blank, question), (document, ""), *((document, q) for q in others)]
            sittings.append([self._exam_question(*context, answer) for context in contexts])
        examiner = Examiner(self.greedy.model, self.greedy.tokenizer, None, Student())
        asked = tuple(question for sitting in sittings for question in sitting)
        grades = iter(examiner.before(Exam(questions=asked), PASS_TOKENS).grades)
        lifts = []
        for sitting in sittings:
            both, question_alone, document_alone, *swapped = [next(grades).loglik for _ in sitting]
            chance = max(question_alone, document_alone, sum(swapped) / len(swapped) if swapped else document_alone)
            lifts.append(both - chance)
        return lifts

    def _exam_question(self, document: Document, question: str, answer: str) -> Question:
        frame = self._prompt(document)
        if self.tagged:
            return Question(prompt=f"{frame} {question}" if question else frame, answer=answer)
        return Question(prompt=f"{frame}Q: {question}\nA:" if question else f"{frame}A:", answer=answer)


def _other_questions(items: Sequence[Item], kept: Sequence[Item], document: Document, pair: Pair) -> list[str]:
    """Questions of the same document, without those of the same answer: they may ask the same in other words."""
    found = dict.fromkeys(
        other.question
        for owner, other in (*items, *kept)
        if owner is document and other.question != pair.question and words(other.answer) != words(pair.answer)
    )
    return list(found)[:MAX_OTHERS]


def load_question_writer(config: Config) -> QuestionWriter:
    """The model of `questions.model`, ready to write. Raises UserError where there is no such model."""
    name = config.questions.model
    own = name in (TEACHER, config.teacher.model)
    settings = config.teacher.model_copy(
        update={"model": config.teacher.model if own else name, "temperature": 0.0, "top_p": 1.0}
    )
    pen = load_teacher(settings)
    tagged = own and settings.prompting == "policy" and not pen.tokenizer.chat_template
    if config.questions.min_lift:
        try:
            check_head(pen.model)
        except UserError:
            kind = pen.model.config.model_type
            raise UserError(
                f"questions.model {name!r} ({kind}) can write but not check: set questions.min_lift to 0"
            ) from None
    context = getattr(pen.model.config.get_text_config(), "max_position_embeddings", None)
    length = TOKENS_PER_QUESTION * config.questions.per_document
    settings = settings.model_copy(
        update={
            "prompting": "policy" if tagged else "strategy",
            # Half of a short context belongs to the document.
            "max_new_tokens": length if context is None else max(1, min(length, context // 2)),
        }
    )
    greedy, sampler = (
        TransformersWriter(pen.model, pen.tokenizer, settings.model_copy(update={"temperature": temperature}))
        for temperature in (0.0, TEMPERATURE)
    )
    return QuestionWriter(config, greedy, sampler, tagged)


def _enough(questions: list[dict[str, str]], count: int) -> bool:
    return len(questions) >= count and (count < 2 or len({_split(item) for item in questions}) == 2)

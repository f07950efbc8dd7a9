"""A model writes questions with answers about documents, and checks which of them students may be asked.

The prompt is `prompt.txt` for chat models, the `question-answer` strategy for base models, and the tag
`<question-answer>` for a `policy` teacher.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from configs.errors import UserError
from configs.schema import Questions, Student, Teacher
from configs.schema.student import TEACHER
from configs.seeds import item_hash
from student.benchmarks.items import split_of
from student.engine.exam import Examiner
from student.engine.proof import prove
from student.engine.scores import Scorer
from student.records import Document, Exam, Question
from student.text.words import length_in_words, word_line, words
from teacher.prompting.prompts import build_prompt
from teacher.prompting.strategies import is_ready
from teacher.writers.local import TransformersWriter, load_teacher

PROMPT_FILE = Path(__file__).with_name("prompt.txt")
STRATEGY = "question-answer"
ATTEMPTS = 3
"""Completions of a document at most: the first is greedy, the others are sampled where it gave too few questions."""
TEMPERATURE = 0.7
MAX_ANSWER_WORDS = 12
PASS_TOKENS = 4096
"""Positions of one forward pass of the lift check."""
MAX_OTHERS = 4
"""Other questions of the document that an answer is compared with: the check costs that many more passes."""


class QuestionAnswer(NamedTuple):
    """A question as the model wrote it, with its answer."""

    question: str
    answer: str


@dataclass(slots=True)
class CheckedQuestions:
    """The questions that were written about one document: `{question, answer}` of those that students may be asked,
    `{question, answer, reason}` of the others."""

    questions: list[dict[str, str]] = field(default_factory=list)
    dropped: list[dict[str, str]] = field(default_factory=list)


_MARKUP = re.compile(r"[*_`#]+(?=\S)|(?<=\S)[*_`]+")
_NUMBER = re.compile(r"^\s*(?:[-•*]|\(?\d{1,3}[.):]|\(?[a-z]\))\s+")
_LABEL = re.compile(r"\b(Q(?:uestion)?|A(?:nswer)?)\s*\d{0,3}\s*(?:[:.)]\s+|：\s*)", re.IGNORECASE)
_QUESTION_WORD = re.compile(
    r"(?:(?:in|at|on|by|for|from|to|of|with|under|during|after|before|since|until|about)\s+)?"
    r"(?:what|which|who|whom|whose|when|where|why|how)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!;]\s+|[。！；]\s*|[।۔؛]\s+")
_QUOTES = "\"'“”‘’«»「」『』"
QUESTION_MARKS = ("?", "？", "؟")
_NAMES_TEXT = re.compile(
    r"\b(?:the|this|that|above|following|given)\s+(?:passage|text|paragraph|article|document|excerpt|context)\b",
    re.IGNORECASE,
)


def parse_pairs(text: str) -> list[QuestionAnswer]:
    """The questions with answers of a completion, in order. It reads `Q: ... A: ...` on one line or two, with numbers,
    bold type or full words as labels; a question with its answer on the next line; and `Question? Answer. Question?
    Answer.` in one line."""
    pairs: list[QuestionAnswer] = []
    unanswered = ""
    for label, line in _labelled_lines(text):
        if label == "q" or (label == "" and not unanswered):
            inline, unanswered = _inline_pairs(line, labelled=label == "q")
            pairs += inline
        elif unanswered and label == "" and line.endswith(QUESTION_MARKS):
            unanswered = line  # the answer is missing, and this is the next question
        elif unanswered:
            pairs.append(QuestionAnswer(unanswered, _trimmed(line)))
            unanswered = ""
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


def _inline_pairs(line: str, labelled: bool) -> tuple[list[QuestionAnswer], str]:
    """The pairs of `Question? Answer. Question? Answer.`, and the question that the line leaves without an answer."""
    head, *rest = re.split(r"(?<=[?？؟])\s*", line)
    if not head.endswith(QUESTION_MARKS):
        return [], line if labelled else ""
    pairs, question = [], head
    for piece in rest:
        if not piece.endswith(QUESTION_MARKS):
            break
        answer, next_question = _answer_and_question(piece)
        if answer:
            pairs.append(QuestionAnswer(question, _trimmed(answer)))
        question = next_question
    tail = rest[-1] if rest and not rest[-1].endswith(QUESTION_MARKS) else ""
    return (pairs + [QuestionAnswer(question, _trimmed(tail))], "") if tail else (pairs, question)


def _answer_and_question(piece: str) -> tuple[str, str]:
    """`Oslo. What did Ada study?` cut before its question word; without one, at the last end of a sentence."""
    ends = list(_SENTENCE_END.finditer(piece))
    if not ends:
        return "", piece
    end = next((end for end in ends if _QUESTION_WORD.match(piece, end.end())), ends[-1])
    return piece[: end.start()], piece[end.end() :]


def _trimmed(answer: str) -> str:
    answer = answer.strip().strip(_QUOTES)
    return answer.rstrip(".;,! 。，、；！।۔،؛").strip(f"{_QUOTES} ")


def refuse(document: Document, pair: QuestionAnswer) -> str | None:
    """Why the wording alone disqualifies the question, or None."""
    question, answer = words(pair.question), words(pair.answer)
    if len(question) < 3:
        return "question too short"
    if _NAMES_TEXT.search(pair.question):
        return "question names the text"
    if not answer or word_line(answer) not in word_line(words(document.text)):
        return "answer not in the text"
    if (length := length_in_words(answer)) > MAX_ANSWER_WORDS:
        return f"answer too long: {length:g} words"
    if word_line(answer) in word_line(question):
        return "answer in the question"
    return None


def select(questions: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """The first `count` questions. Where all of them are of one split, a later question of the other split replaces
    the last one; where there is none, the last one is moved to the other split by a `split` of its own."""
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


@dataclass(frozen=True)
class QuestionWriter:
    """Writes questions and checks them."""

    settings: Questions
    writer: TransformersWriter
    """Greedy; at `TEMPERATURE` from the second attempt on."""
    seed: int
    tagged: bool
    """Whether the model writes questions behind a strategy tag of its own."""

    def write(self, documents: Sequence[Document]) -> list[CheckedQuestions]:
        """The checked questions of each document; equal calls give equal questions on CPU."""
        results = [CheckedQuestions() for _ in documents]
        # By question the answer that came first, both in lower-case words.
        answers: list[dict[str, str]] = [{} for _ in documents]
        count = self.settings.per_document
        for attempt in range(ATTEMPTS):
            # Those with too few questions, or with questions of one split alone.
            split_counts = [len(set(map(_split, result.questions))) for result in results]
            short = [i for i, r in enumerate(results) if len(r.questions) < count or split_counts[i] < min(count, 2)]
            plausible: list[tuple[int, QuestionAnswer]] = []
            for i, pairs in zip(short, self._complete([documents[i] for i in short], attempt), strict=True):
                for pair in pairs:
                    question, answer = (" ".join(words(part)) for part in pair)
                    if answers[i].get(question) == answer:
                        continue  # the same pair again: it is kept or dropped already
                    repeated = question in answers[i]
                    answers[i].setdefault(question, answer)
                    reason = "question asked already" if repeated else refuse(documents[i], pair)
                    if reason is None:
                        plausible.append((i, pair))
                    else:
                        results[i].dropped.append({**pair._asdict(), "reason": reason})
            lifts = self._lifts(
                [(documents[i], pair) for i, pair in plausible],
                [(documents[i], QuestionAnswer(**item)) for i in short for item in results[i].questions],
            )
            for (i, pair), lift in zip(plausible, lifts, strict=True):
                if lift < self.settings.min_lift:
                    reason = f"not answered by the text: lift {lift:.2f}"
                    results[i].dropped.append({**pair._asdict(), "reason": reason})
                else:
                    results[i].questions.append(pair._asdict())
        for result in results:
            chosen = select(result.questions, count)
            texts = [item["question"] for item in chosen]
            surplus = [item for item in result.questions if item["question"] not in texts]
            result.dropped += [{**item, "reason": "more than asked for"} for item in surplus]
            result.questions = chosen
        return results

    def _complete(self, documents: Sequence[Document], attempt: int) -> list[list[QuestionAnswer]]:
        if not documents:
            return []
        names = [document.id for document in documents]
        seed = int(item_hash(str(self.seed), "questions", str(attempt), *names), 16) % 2**31
        # A small chat model talks about the task unless its first word is put into its mouth.
        opening = "" if self.tagged else "Q:"
        prompts = [self._prompt(document) + opening for document in documents]
        writer = self.writer.at(TEMPERATURE) if attempt else self.writer
        pairs = []
        for (completion,) in writer.write(prompts, 1, seed):
            parsed = parse_pairs(opening + completion.text)
            # The last answer of a completion that was cut may be cut itself.
            pairs.append(parsed if completion.ended else parsed[:-1])
        return pairs

    def _prompt(self, document: Document) -> str:
        tokenizer, settings, longest = self.writer.tokenizer, self.writer.settings, self.writer.max_prompt_tokens
        if self.tagged:
            return build_prompt(tokenizer, settings, document, max_tokens=longest) + f"<{STRATEGY}>"
        if not tokenizer.chat_template:
            return build_prompt(tokenizer, settings, document, STRATEGY, max_tokens=longest)
        prompt = build_prompt(tokenizer, settings, document, str(PROMPT_FILE), max_tokens=longest)
        # The last one is the prompt file's: the passage, which may hold the same letters, stands before it.
        before, placeholder, after = prompt.rpartition("{count}")
        return f"{before}{self.settings.per_document}{after}" if placeholder else prompt

    @cached_property
    def scorer(self) -> Scorer:
        """The model's likelihoods. Raises UserError for one of which the engine cannot tell them."""
        scorer = Scorer(self.writer.model, self.writer.tokenizer, None, Student())
        prove(scorer)
        return scorer

    def _lifts(
        self, pairs: Sequence[tuple[Document, QuestionAnswer]], kept: Sequence[tuple[Document, QuestionAnswer]] = ()
    ) -> list[float]:
        """Log-likelihood of each answer minus the best of three baselines: the question alone, the document alone, the
        document with its other questions (their mean). In nats a token of the answer.

        This is the pointwise mutual information of question and answer given the document, as well as of document and
        answer given the question: the round trip of synthetic question answering (arXiv 1906.05416), by likelihoods.
        The comparison with the question alone passes any words of the text. On SmolLM2-135M and SQuAD it separates a
        passage's answers swapped among its questions from the right ones no better than chance (AUC 0.52, n = 18 + 36),
        the first two comparisons by 0.74, all three by 0.90, or 0.83 where the swapped answer's true question is not
        among the others.
        """
        if not self.settings.min_lift or not pairs:
            return [float("inf")] * len(pairs)
        blank = copy.copy(pairs[0][0])
        blank.text = ""
        questions: list[Question] = []
        counts = []
        for document, pair in pairs:
            # Without questions that have the same answer: they may be paraphrases, under which it is rightly likely.
            others = dict.fromkeys(
                other.question
                for owner, other in (*pairs, *kept)
                if owner is document and other.question != pair.question and words(other.answer) != words(pair.answer)
            )
            swapped = [(document, question) for question in [*others][:MAX_OTHERS]]
            contexts = [(document, pair.question), (blank, pair.question), (document, ""), *swapped]
            questions += [self._exam_question(*context, pair.answer) for context in contexts]
            counts.append(len(contexts))
        grades = iter(Examiner(self.scorer).before(Exam(questions=tuple(questions)), PASS_TOKENS).grades)
        lifts = []
        for count in counts:
            both, question_alone, document_alone, *by_others = [next(grades).loglik for _ in range(count)]
            mean = sum(by_others) / len(by_others) if by_others else document_alone
            lifts.append(both - max(question_alone, document_alone, mean))
        return lifts

    def _exam_question(self, document: Document, question: str, answer: str) -> Question:
        prompt = self._prompt(document)
        if self.tagged:
            return Question(prompt=f"{prompt} {question}" if question else prompt, answer=answer)
        return Question(prompt=f"{prompt}Q: {question}\nA:" if question else f"{prompt}A:", answer=answer)


def load_question_writer(settings: Questions, teacher: Teacher, seed: int) -> QuestionWriter:
    """The model of `questions.model`, ready to write. Raises UserError where there is no such model."""
    is_teacher = settings.model in (TEACHER, teacher.model)
    model = teacher.model if is_teacher else settings.model
    loaded = load_teacher(teacher.model_copy(update={"model": model, "temperature": 0.0, "top_p": 1.0}))
    tagged = is_teacher and teacher.prompting == "policy" and not loaded.tokenizer.chat_template
    length = 40 * settings.per_document  # tokens
    if loaded.context is not None:
        # Half of a short context belongs to the document.
        length = max(1, min(length, loaded.context // 2))
    # It chooses nothing, so there are no ready texts to choose from.
    strategies = tuple(name for name in teacher.strategies if not is_ready(name))
    changes = {"prompting": "policy" if tagged else "strategy", "strategies": strategies, "max_new_tokens": length}
    writer = TransformersWriter(loaded.model, loaded.tokenizer, loaded.settings.model_copy(update=changes))
    question_writer = QuestionWriter(settings, writer, seed, tagged)
    if settings.min_lift:
        try:
            assert question_writer.scorer
        except UserError as error:
            raise UserError(
                f"questions.model {settings.model!r} can write but not check (set questions.min_lift to 0): {error}"
            ) from None
    return question_writer

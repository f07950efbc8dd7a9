"""Questions with answers about documents, of all kinds that are asked for, and which of them students may be asked.

A chat model writes from `prompt.txt` and the kind's own words, a base model from the `question-answer` strategy, a
`policy` teacher behind the tag `<question-answer>`; a rule makes cloze questions. A question stays if its answer can be
told with the document (by likelihoods, see `_lifts`) and cannot be told without it by the students: else nothing can be
gained (the dependency on knowledge of 2022.emnlp-main.718, with the students themselves in the place of other models).
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.schema import Questions, Student, Teacher
from configs.schema.student import TEACHER
from configs.seeds import item_hash
from student.engine.exam import Examiner
from student.engine.models import load_student
from student.engine.proof import prove
from student.engine.scores import Scorer
from student.records import Document, Exam, Question
from student.text.words import words
from teacher.prompting.prompts import build_prompt
from teacher.prompting.strategies import is_ready
from teacher.questions.cloze import cloze_questions
from teacher.questions.kinds import CLOZE, Kind, kinds_of
from teacher.questions.parsing import QuestionAnswer, parse_pairs
from teacher.questions.refusals import refuse
from teacher.questions.sides import facts_of
from teacher.writers.local import TransformersWriter, load_teacher

PROMPT_FILE = Path(__file__).with_name("prompt.txt")
STRATEGY = "question-answer"
ATTEMPTS = 3
"""Completions of a document and kind at most: the first is greedy, the others are sampled where it gave too few."""
TEMPERATURE = 0.7
PASS_TOKENS = 4096
"""Positions of one forward pass of the checks."""
MAX_OTHERS = 4
"""Other questions of the document that an answer is compared with: the check costs that many more passes."""
SPARE = 2
"""So many times the questions that are kept are made by rule, for those that are refused."""

Item = dict[str, Any]
"""A question as it stands in the file: `question`, `answer`, `kind`, and `reason` where it is refused."""


@dataclass(slots=True)
class CheckedQuestions:
    """The questions that were written about one document: those that passed the checks, and the others with
    `reason`."""

    questions: list[Item] = field(default_factory=list)
    dropped: list[Item] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    """By question the answer that came first, both in lower-case words."""


def choose(document: Document, items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the questions: kinds take turns, and two facts are asked for where there are two."""
    by_kind: dict[str, list[Item]] = {}
    for item in items:
        by_kind.setdefault(item["kind"], []).append(item)
    turns = range(max(map(len, by_kind.values()), default=0))
    queue = [of_kind[turn] for turn in turns for of_kind in by_kind.values() if turn < len(of_kind)]
    facts = facts_of(document, queue)
    order = list(range(len(queue)))
    if 1 < count < len(queue) and len(set(facts[:count])) == 1:
        other = next((i for i in order if facts[i] != facts[0]), count - 1)
        order[count - 1 : count] = [other]
    return [queue[i] for i in order[:count]]


@dataclass(frozen=True)
class QuestionModel:
    """The model that writes questions, and tells by likelihoods whether a document answers them."""

    settings: Questions
    writer: TransformersWriter
    """Greedy; at `TEMPERATURE` from the second attempt on."""
    seed: int
    tagged: bool
    """Whether the model writes questions behind a strategy tag of its own."""
    name: str = ""

    def complete(
        self, documents: Sequence[Document], kind: Kind, count: int, attempt: int
    ) -> list[list[QuestionAnswer]]:
        """What it writes about each document when it is asked for `count` questions of a kind."""
        names = [document.id for document in documents]
        seed = int(item_hash(str(self.seed), "questions", kind.name, str(attempt), *names), 16) % 2**31
        # A small chat model talks about the task unless its first word is put into its mouth.
        opening = "" if self.tagged else "Q:"
        prompts = [self._prompt(document, kind, count) + opening for document in documents]
        writer = self.writer.at(TEMPERATURE) if attempt else self.writer
        pairs = []
        for (completion,) in writer.write(prompts, 1, seed):
            parsed = parse_pairs(opening + completion.text)
            # The last answer of a completion that was cut may be cut itself.
            pairs.append(parsed if completion.ended else parsed[:-1])
        return pairs

    @property
    def follows(self) -> bool:
        """Whether it can be told what to ask for."""
        return not self.tagged and bool(self.writer.tokenizer.chat_template)

    def _prompt(self, document: Document, kind: Kind, count: int) -> str:
        tokenizer, settings, longest = self.writer.tokenizer, self.writer.settings, self.writer.max_prompt_tokens
        if self.tagged:
            return build_prompt(tokenizer, settings, document, max_tokens=longest) + f"<{STRATEGY}>"
        if not tokenizer.chat_template:
            return build_prompt(tokenizer, settings, document, STRATEGY, max_tokens=longest)
        prompt = build_prompt(tokenizer, settings, document, str(PROMPT_FILE), max_tokens=longest)
        for placeholder, value in (("{count}", str(count)), ("{ask}", kind.ask)):
            # The last one is the prompt file's: the passage, which may hold the same letters, stands before it.
            before, found, after = prompt.rpartition(placeholder)
            prompt = f"{before}{value}{after}" if found else prompt
        return prompt

    @cached_property
    def scorer(self) -> Scorer:
        """The model's likelihoods. Raises UserError for one of which the engine cannot tell them."""
        return _scorer(self.writer.model, self.writer.tokenizer)

    def lifts(
        self,
        pairs: Sequence[tuple[Document, QuestionAnswer]],
        kind: Kind,
        kept: Sequence[tuple[Document, QuestionAnswer]] = (),
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
            questions += [self._exam_question(kind, *context, pair.answer) for context in contexts]
            counts.append(len(contexts))
        grades = iter(Examiner(self.scorer).before(Exam(questions=tuple(questions)), PASS_TOKENS).grades)
        lifts = []
        for count in counts:
            both, question_alone, document_alone, *by_others = [next(grades).loglik for _ in range(count)]
            mean = sum(by_others) / len(by_others) if by_others else document_alone
            lifts.append(both - max(question_alone, document_alone, mean))
        return lifts

    def _exam_question(self, kind: Kind, document: Document, question: str, answer: str) -> Question:
        prompt = self._prompt(document, kind, self.settings.per_document)
        if self.tagged:
            return Question(prompt=f"{prompt} {question}" if question else prompt, answer=answer)
        return Question(prompt=f"{prompt}Q: {question}\nA:" if question else f"{prompt}A:", answer=answer)


@dataclass(frozen=True)
class QuestionWriter:
    """Writes questions and checks them."""

    settings: Questions
    kinds: Sequence[Kind]
    model: QuestionModel | None
    """None: all kinds are made by rule."""
    students: Sequence[Scorer] = ()
    """The students before any lesson. A question that all of them can answer is refused."""
    template: str = "{question}"
    """How a question is put to them."""

    def write(self, documents: Sequence[Document]) -> list[CheckedQuestions]:
        """The checked questions of each document; equal calls give equal questions on CPU."""
        results = [CheckedQuestions() for _ in documents]
        count = self.settings.per_document
        share = math.ceil(count / max(1, len(self.kinds)))
        for attempt in range(ATTEMPTS):
            for kind in self.kinds:
                # Those with too few questions of this kind, or with questions about one fact alone.
                short = [
                    i
                    for i, result in enumerate(results)
                    if sum(item["kind"] == kind.name for item in result.questions) < share
                    or len(set(facts_of(documents[i], result.questions))) < min(count, 2)
                ]
                if not short or (kind.by_rule and attempt):
                    continue
                asked = [documents[i] for i in short]
                if kind.by_rule:
                    written = [cloze_questions(document)[: SPARE * count] for document in asked]
                else:
                    assert self.model is not None
                    written = self.model.complete(asked, kind, share, attempt)
                self._check(kind, [(documents[i], results[i], pairs) for i, pairs in zip(short, written, strict=True)])
        return results

    def _check(self, kind: Kind, written: Sequence[tuple[Document, CheckedQuestions, list[QuestionAnswer]]]) -> None:
        """Puts each of the new questions where it belongs: to the questions, or to those that are dropped."""
        passed: list[tuple[Document, CheckedQuestions, QuestionAnswer]] = []
        refused: list[tuple[CheckedQuestions, QuestionAnswer, str]] = []
        for document, result, pairs in written:
            for pair in pairs:
                question, answer = (" ".join(words(part)) for part in pair)
                if result.answers.get(question) == answer:
                    continue  # the same pair again: it is kept or dropped already
                repeated = question in result.answers
                result.answers.setdefault(question, answer)
                if reason := "asked already with another answer" if repeated else refuse(document, pair, kind):
                    refused.append((result, pair, reason))
                else:
                    passed.append((document, result, pair))
        if self.model is not None and not kind.by_rule:
            kept = [(d, QuestionAnswer(q["question"], q["answer"])) for d, r, _ in written for q in r.questions]
            lifts = self.model.lifts([(document, pair) for document, _, pair in passed], kind, kept)
            told = [lift >= self.settings.min_lift for lift in lifts]
            refused += [
                (result, pair, f"not answered by the text: lift {lift:.2f}")
                for (_, result, pair), lift, tells in zip(passed, lifts, told, strict=True)
                if not tells
            ]
            passed = [entry for entry, tells in zip(passed, told, strict=True) if tells]
        known = self._known([pair for _, _, pair in passed])
        for (_, result, pair), is_known in zip(passed, known, strict=True):
            if is_known:
                refused.append((result, pair, "known without the text"))
            else:
                result.questions.append(pair._asdict() | {"kind": kind.name})
        for result, pair, reason in refused:
            result.dropped.append(pair._asdict() | {"kind": kind.name, "reason": reason})

    def _known(self, pairs: Sequence[QuestionAnswer]) -> list[bool]:
        """Whether every student answers a question without a lesson: the answer is what it would write, or its tokens
        are likelier than `max_known`."""
        if not self.students or self.settings.max_known == 1 or not pairs:
            return [False] * len(pairs)
        exam = Exam(questions=tuple(Question(prompt=self.template.format(question=q), answer=a) for q, a in pairs))
        by_student = [Examiner(student).before(exam, PASS_TOKENS).grades for student in self.students]
        limit = math.log(self.settings.max_known)
        return [
            all(grade.correct or grade.loglik > limit for grade in grades) for grades in zip(*by_student, strict=True)
        ]


def _scorer(model: Any, tokenizer: Any) -> Scorer:
    scorer = Scorer(model, tokenizer, None, Student())
    prove(scorer)
    return scorer


def load_question_writer(
    settings: Questions, teacher: Teacher, seed: int, student: Student | None = None
) -> QuestionWriter:
    """What writes the config's kinds of questions, for the students of a config. Raises UserError where there is no
    such kind or model."""
    kinds = kinds_of(settings)
    written = [kind for kind in kinds if not kind.by_rule]
    model = _load_model(settings, teacher, seed) if written else None
    if model is not None and not model.follows and [kind.name for kind in written] != ["fact"]:
        raise UserError(
            f"questions.kinds: {settings.model!r} has no chat template and cannot be told what to ask for: it"
            f" writes `fact` alone, beside {CLOZE}"
        )
    students: list[Scorer] = []
    if student is not None and settings.max_known < 1:
        for name in dict.fromkeys(teacher.model if name == TEACHER else name for name in student.names if name):
            if model is not None and name == model.name:
                students.append(model.scorer)
            else:
                students.append(_scorer(*load_student(student.model_copy(update={"model": name}))))
    return QuestionWriter(settings, kinds, model, students, student.prompt_template if student else "{question}")


def _load_model(settings: Questions, teacher: Teacher, seed: int) -> QuestionModel:
    is_teacher = settings.model in (TEACHER, teacher.model)
    name = teacher.model if is_teacher else settings.model
    loaded = load_teacher(teacher.model_copy(update={"model": name, "temperature": 0.0, "top_p": 1.0}))
    tagged = is_teacher and teacher.prompting == "policy" and not loaded.tokenizer.chat_template
    length = 40 * settings.per_document  # tokens
    if loaded.context is not None:
        # Half of a short context belongs to the document.
        length = max(1, min(length, loaded.context // 2))
    # It chooses nothing, so there are no ready texts to choose from.
    strategies = tuple(name for name in teacher.strategies if not is_ready(name))
    changes = {"prompting": "policy" if tagged else "strategy", "strategies": strategies, "max_new_tokens": length}
    changes["continuations"] = 0
    writer = TransformersWriter(loaded.model, loaded.tokenizer, loaded.settings.model_copy(update=changes))
    model = QuestionModel(settings, writer, seed, tagged, name)
    if settings.min_lift:
        try:
            assert model.scorer
        except UserError as error:
            raise UserError(
                f"questions.model {settings.model!r} can write but not check (set questions.min_lift to 0): {error}"
            ) from None
    return model

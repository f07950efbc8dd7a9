"""What students are asked: all questions of a document, each with wrong answers beside the gold one."""

from dataclasses import replace

from configs.seeds import item_hash
from student.benchmarks.sources import DocumentQuestions
from student.records import Document, Exam, Question
from student.text.words import word_line, words

DISTRACTORS = 4
"""Most wrong answers that are drawn for a question."""


class AllQuestions:
    """The documents' own questions, all of which may be asked. Those that bring no distractors get the answers of the
    document's other questions, without those that hold the gold answer's words or stand in it: in the document's form
    and about its topic, so that `contrast` and `choice` ask what the document says and not what it is about."""

    def __init__(self, template: str) -> None:
        self.benchmark = DocumentQuestions(template)

    def exam(self, document: Document) -> Exam:
        """The exam of one document. A question for which no wrong answer is left has none."""
        questions = self.benchmark.exam(document).questions
        asked = {replace(question, split="reward"): None for question in questions}
        return Exam(
            questions=tuple(
                question if question.distractors else _with_distractors(question, questions) for question in asked
            )
        )


def _with_distractors(question: Question, questions: tuple[Question, ...]) -> Question:
    """Drawn by a hash of question and answer, so that they are the same in every call."""
    gold = word_line(words(question.answer))
    wrong: dict[str, str] = {}
    for other in questions:
        line = word_line(words(other.answer))
        if line not in gold and gold not in line:
            wrong.setdefault(line, other.answer)
    drawn = sorted(wrong.values(), key=lambda answer: item_hash(question.prompt, answer))
    return replace(question, distractors=tuple(drawn[:DISTRACTORS]))

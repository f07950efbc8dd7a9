"""Questions for documents without: written by a tiny teacher, checked, and kept in a file."""

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datatrove.data import Document
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from configs.errors import UserError
from configs.schema import Config, Lab, Questions, Student
from curation.lab.build import build_lab
from teacher.questions.cache import document_key, ensure_questions, questions_file, read_questions
from teacher.questions.kinds import kinds_of
from teacher.questions.parsing import QuestionAnswer, parse_pairs
from teacher.questions.refusals import refuse
from teacher.questions.writer import QuestionWriter, load_question_writer

PEOPLE = "Ada Bob Cleo Dan Eve Finn Gina Hugo Ida Jan Kim".split()
VALUES = {"city": "Lisbon Oslo Rome Cairo Lima Perth".split(), "craft": "optics law logic music chess yoga".split()}
STEPS = 120
FACT = kinds_of(Questions(model="teacher"))[0]


def fact_sheet(rng: random.Random, name: str = "") -> str:
    facts = [f"{name} {rng.choice(values)}" for name, values in VALUES.items()]
    rng.shuffle(facts)
    return f"{name or rng.choice(PEOPLE)} has {facts[0]} and {facts[1]} ."


def quiz(text: str, order: tuple[int, int]) -> str:
    told = text.split()
    return " ".join(f"What is the {told[i]} of {told[0]} ? {told[i + 1]} ." for i in order)


def documents(count: int = 10) -> list[Document]:
    rng = random.Random(1)
    return [
        Document(id=f"sheet-{i}", text=fact_sheet(rng, PEOPLE[i]), metadata={"source_row": i}) for i in range(count)
    ]


def later_text() -> str:
    """Another sheet that the reader knows."""
    return fact_sheet(random.Random(99), PEOPLE[10])


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Path:
    """A word-level Llama, d=64, that learnt this file's sheets by heart, behind `<question-answer>`."""
    values = [value for options in VALUES.values() for value in options]
    words = ["<pad>", "<eos>", "<unk>", *PEOPLE, *VALUES, *values, *"has and . What is the of ?".split()]
    level = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    level.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=level, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    tokenizer.add_tokens([AddedToken(t, special=False) for t in ("<lesson>", "<question-answer>")])
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=128,
            tie_word_embeddings=False, bos_token_id=None, eos_token_id=1, pad_token_id=0,
        )
    )  # fmt: skip
    sheets = [*(document.text for document in documents()), later_text()]
    known = [
        f"{sheet}\n<lesson><question-answer> {quiz(sheet, order)}" for sheet in sheets for order in ((2, 5), (5, 2))
    ]
    optimizer, rng = torch.optim.AdamW(model.parameters(), lr=5e-3), random.Random(0)
    for _ in range(STEPS):
        # Without a sheet any answer may be the right one: what it knows, it knows of the sheet.
        guesses = [f"<lesson><question-answer> {quiz(fact_sheet(rng), (2, 5))}" for _ in sheets]
        batch = tokenizer([line + " <eos>" for line in known + guesses], return_tensors="pt", padding=True)
        ids = batch["input_ids"]
        asked = (ids == tokenizer.convert_tokens_to_ids("<question-answer>")).cumsum(1).bool() & (ids != 0)
        model(**batch, labels=torch.where(asked, ids, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("reader")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def config(reader, tmp_path) -> Config:
    return Config.model_validate(
        {
            "run": {"dir": tmp_path / "run"},
            "teacher": {"model": str(reader), "prompting": "policy", "batch_size": 4, "device": "cpu"},
            "questions": {"model": "teacher", "per_document": 2},
        }
    )


def lines_of(config: Config) -> list[dict]:
    return [json.loads(line) for line in questions_file(config).read_text().splitlines()]


def changed(config: Config, **questions) -> Config:
    return config.model_copy(update={"questions": config.questions.model_copy(update=questions)})


def question_writer_of(config: Config) -> QuestionWriter:
    return load_question_writer(config.questions, config.teacher, config.run.seed)


def test_documents_get_true_questions_and_those_with_their_own_keep_them(config):
    said: list[str] = []
    plain = documents()
    own = Document(
        id="own", text="Ada has city Oslo .", metadata={"questions": [{"question": "Whose?", "answer": "Ada"}]}
    )
    asked = ensure_questions(config, [own, *plain], said.append)
    assert asked[0] is own and "questions" not in plain[0].metadata, "nothing that was given is changed"
    assert len(asked) >= 9, "the tiny reader may misread a sheet"
    for document in asked[1:]:
        told = document.text.split()
        items = document.metadata["questions"]
        assert 1 <= len(items) <= 2 and document.metadata["source_row"] is not None
        right = sum(item["answer"] == told[told.index(item["question"].split()[3]) + 1] for item in items)
        assert right == len(items)
    assert [line["id"] for line in lines_of(config)] == [document.id for document in plain]
    assert any("10 documents" in line and "kept" in line for line in said)


def test_lines_are_kept_as_edited_and_changed_texts_get_new_questions(config, monkeypatch):
    written = {document.id for document in ensure_questions(config, documents(8), print)}
    given = [document for document in documents(8) if document.id in written][:6]
    path = questions_file(config)
    lines = [line for line in lines_of(config) if line["id"] in {document.id for document in given}]
    lines[0]["questions"] = [{"question": "Who is it, in your own words?", "answer": "Ada"}]
    lines[1]["questions"] = []
    path.write_text("\n\n".join(json.dumps(line) for line in lines))  # as an editor may leave it
    before = path.read_bytes()

    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            "teacher.questions.cache.load_question_writer", lambda *_: pytest.fail("nothing is to be written")
        )
        asked = ensure_questions(config, given, said.append)
    assert path.read_bytes() == before
    assert [document.id for document in asked] == [document.id for document in given if document is not given[1]]
    [item] = asked[0].metadata["questions"]
    assert item == lines[0]["questions"][0] | {"split": item["split"]}
    assert said == [f"warning: 1 of 6 documents have no question that passed, left out: see {path}"]

    given[2].text = later_text()
    asked = ensure_questions(config, given, print)
    assert path.read_bytes().startswith(before) and len(read_questions(path)) == 7
    assert (
        asked[1].text == given[2].text
        and asked[1].metadata["questions"] == read_questions(path)[document_key(given[2])]
    )


@pytest.mark.parametrize("cut", [1, 25, 0])
def test_a_killed_call_goes_on_and_ends_with_the_same_file(config, tmp_path, cut):
    ensure_questions(config, documents(), print)
    path = questions_file(config)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    # What a kill can leave: some lines of a batch, and a part of the next.
    path.write_bytes(b"".join(lines[:5]) + lines[5][:cut])
    said: list[str] = []
    ensure_questions(config, documents(), said.append)
    assert path.read_bytes() == whole
    assert any("torn last line" in line for line in said) == bool(cut)


def test_kill_9_while_writing(config, tmp_path):
    code = f"""
import os, signal
from configs.schema import Config
from teacher.questions.cache import ensure_questions
from tests.teacher.questions.test_cache import documents
def die(line): os.kill(os.getpid(), signal.SIGKILL)
import teacher.questions.cache as questions
questions.SECONDS_BETWEEN_LINES = 0
ensure_questions(Config.model_validate_json({config.model_dump_json()!r}), documents(), die)
"""
    root = str(Path(__file__).parents[3])
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONPATH": root})
    assert done.returncode == -signal.SIGKILL
    path = questions_file(config)
    assert [line["id"] for line in lines_of(config)] == [f"sheet-{i}" for i in range(4)], "the first batch is kept"
    first = path.read_bytes()
    ensure_questions(config, documents(), print)
    resumed = path.read_bytes()
    assert resumed.startswith(first)
    other = changed(config, file=tmp_path / "other.jsonl")
    ensure_questions(other, documents(), print)
    assert questions_file(other).read_bytes() == resumed


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", "line 2: "),
        ("[]", "line 2: not an object"),
        ('{"id": "a", "questions": []}', "line 2: needs `id`, `text_hash`"),
        ('{"id": "a", "text_hash": "b", "question": []}', "line 2: unknown key 'question'; did you mean 'questions'?"),
        (
            '{"id": "a", "text_hash": "b", "questions": [{"question": "Who?"}]}',
            "line 2: question of document 'a' needs",
        ),
    ],
)
def test_a_malformed_line_is_named_and_nothing_is_touched(config, line, said):
    path = questions_file(config)
    path.parent.mkdir(parents=True)
    path.write_text('{"id": "x", "text_hash": "y", "questions": []}\n' + line + "\n")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"questions\.jsonl") as error:
        ensure_questions(config, documents(2), print)
    assert said in str(error.value)
    assert path.read_bytes() == before


def test_no_question_at_all_is_an_error_that_names_the_file(config):
    strict = changed(config, min_lift=1000.0)
    with pytest.raises(UserError, match=r"none of 2 documents has a question.*questions\.jsonl"):
        ensure_questions(strict, documents(2), print)
    lines = lines_of(strict)
    reasons = [item["reason"].partition(" lift ")[0] for line in lines for item in line["dropped"]]
    assert len(lines) == 2 and not any(line["questions"] for line in lines)
    assert set(reasons) - {"asked already with another answer"} == {"not answered by the text:"}


def test_what_every_student_knows_is_refused(config, reader):
    student = Student(model=str(reader), device="cpu")
    config = config.model_copy(update={"student": student})
    with pytest.raises(UserError, match="none of 2 documents has a question"):
        ensure_questions(changed(config, max_known=1e-9), documents(2), print)
    dropped = [item for line in lines_of(config) for item in line["dropped"]]
    assert "known without the text" in {item["reason"] for item in dropped}
    questions_file(config).unlink()
    other = config.model_copy(update={"student": student.model_copy(update={"model": "models/gone"})})
    with pytest.raises(UserError, match="models/gone"):
        ensure_questions(other, documents(2), print)
    assert len(ensure_questions(changed(other, max_known=1), documents(2), print)) == 2, "nobody is asked"


def test_a_missing_model_is_refused_before_anything_is_written(config):
    with pytest.raises(UserError, match="models/gone"):
        ensure_questions(changed(config, model="models/gone"), documents(2), print)
    assert not questions_file(config).exists()


def test_the_lift_is_high_only_where_question_and_answer_belong_together(config):
    model = question_writer_of(config).model
    right, swapped, absent = [], [], []
    for document in documents():
        name, _, first, value, _, second, other, _ = document.text.split()
        asking = [f"What is the {attribute} of {name} ?" for attribute in (first, second)]
        elsewhere = [next(word for word in VALUES[key] if word not in document.text) for key in (first, second)]
        for lifts, answers in ((right, (value, other)), (swapped, (other, value)), (absent, elsewhere)):
            lifts += model.lifts(
                [(document, QuestionAnswer(*pair)) for pair in zip(asking, answers, strict=True)], FACT
            )
    enough = config.questions.min_lift
    assert sum(lift > enough for lift in right) >= 18, "the tiny reader may misread one of twenty"
    assert max(swapped) < enough, "words of the text behind the wrong question"
    assert max(absent) < enough


def test_a_question_in_other_words_does_not_count_against_its_twin(config):
    model = question_writer_of(config).model
    document = documents()[0]
    name, _, first, value, _, second, other, _ = document.text.split()
    pair = QuestionAnswer(f"What is the {first} of {name} ?", value)
    twin = QuestionAnswer(f"What is {name} {first} ?", value)
    alone = model.lifts([(document, pair)], FACT)[0]
    assert model.lifts([(document, pair), (document, twin)], FACT)[0] == pytest.approx(alone, abs=1e-4)
    another = QuestionAnswer(f"What is the {second} of {name} ?", other)
    held_against = model.lifts([(document, pair)], FACT, kept=[(document, another)])[0]
    assert held_against == pytest.approx(model.lifts([(document, pair), (document, another)], FACT)[0], abs=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "Q: Where was Ada born?\nA: Oslo.\n\nQ: What did Ada study?\nA: optics",
        "**Q1:** Where was Ada born?\n**A1:** Oslo\n**Q2:** What did Ada study?\n**A2:** Optics.",
        "Question: Where was Ada born? Answer: Oslo\nQuestion: What did Ada study? Answer: optics",
        "1. Where was Ada born?\n   Oslo\n2. What did Ada study?\n   - optics",
        "1) Where was Ada born?\nAnswer: Oslo\n2) What did Ada study?\nAnswer: optics",
        "Where was Ada born? Oslo. What did Ada study? optics.",
        "Here are the questions:\n\n1. Where was Ada born? Oslo\n2. What did Ada study? optics",
        "Where was Ada born ? Oslo . What did Ada study ? optics .",
    ],
)
def test_every_form_is_read(text):
    found = [(p.question.replace(" ?", "?"), p.answer.lower()) for p in parse_pairs(text)]
    assert found == [("Where was Ada born?", "oslo"), ("What did Ada study?", "optics")]


def test_an_underscore_within_a_word_stays():
    text = "**Q:** Which key limits _new_ tokens?\n__A:__ `max_new_tokens`\nQ: Which __One__ is set?\nA: _top_p_\n"
    text += "Q: What does __init__ of _Base call?\nA: __new__\n"
    assert parse_pairs(text) == [
        QuestionAnswer("Which key limits new tokens?", "max_new_tokens"),
        QuestionAnswer("Which One is set?", "top_p"),
        QuestionAnswer("What does __init__ of _Base call?", "__new__"),
    ]


def test_a_question_without_an_answer_is_left_out():
    assert parse_pairs("Where was Ada born?\nWhat did Ada study?\noptics") == [
        QuestionAnswer("What did Ada study?", "optics")
    ]
    assert parse_pairs("Ada was born in Oslo. She studied optics.") == []
    assert parse_pairs("Where did Bo live? St. Louis. Who was Dr. Bo? a baker.") == [
        QuestionAnswer("Where did Bo live?", "St. Louis"), QuestionAnswer("Who was Dr. Bo?", "a baker"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Where was Ada born?", "oslo", None),
        ("Where was Ada born?", "Os", "answer not in the text"),
        ("Was Ada born in Oslo?", "Oslo", "answer in the question"),
        ("Where was the woman of the passage born?", "Oslo", "question names the text"),
        ("Where then?", "Oslo", "question too short"),
        (
            "What is said of Bo?",
            "born in Oslo and lived there for a long time with many cats and dogs",
            "answer too long",
        ),
    ],
)
def test_questions_that_words_alone_refuse(question, answer, reason):
    text = "Ada was born in Oslo and lived there for a long time with many cats and dogs."
    found = refuse(Document(id="a", text=text), QuestionAnswer(question, answer), FACT)
    assert found is None if reason is None else found.startswith(reason)


def test_a_chat_model_gets_the_prompt_file_with_the_number_and_what_to_ask_for(config):
    model = question_writer_of(config).model
    model.writer.tokenizer.chat_template = "USER {{ messages[0].content }} TEACHER "
    model.writer.settings = model.writer.settings.model_copy(update={"prompting": "strategy"})
    model.writer.context = 4096
    why = kinds_of(Questions(model="teacher", kinds=("why",)))[0]
    prompt = replace(model, tagged=False)._prompt(Document(id="a", text="Ada has {count} cats {ask} ."), why, 7)
    assert prompt.startswith("USER ") and "\nAda has {count} cats {ask} .\n" in prompt
    assert "Write 7 short questions" in prompt and f'"A:". {why.ask} Each question names' in prompt


@pytest.mark.slow
def test_the_labs_teacher_writes_for_its_people():
    lab = Lab()
    build_lab(lab)
    rows = [json.loads(line) for line in Path("models/lab/shards/heldout.jsonl").read_text().splitlines()[:16]]
    config = Config.model_validate(
        {
            "teacher": {"model": str(lab.dir / "teacher"), "prompting": "policy", "device": "cpu"},
            "questions": {"model": "teacher"},
        }
    )
    given = [Document(id=row["id"], text=row["text"]) for row in rows]
    sheets = question_writer_of(config).write(given)
    for row, sheet in zip(rows, sheets, strict=True):
        known = {item["answer"] for item in row["questions"]}
        assert len(sheet.questions) >= 4 and {item["answer"] for item in sheet.questions} <= known

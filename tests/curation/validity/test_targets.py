"""Outcomes that a file brings, matched with the documents' rewrites."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from configs.errors import UserError
from configs.schema import Config, Student, Validity
from curation.study.groups import read_groups
from curation.validity.targets import match_outcomes, target_student
from tests.curation.validity.conftest import documents, write


@pytest.fixture
def groups(config):
    read = read_groups(config, None, 6, None, evenly=True)
    return [replace(group, candidates=group.candidates[:-1]) for group in read]  # without the control


def outcome_file(tmp_path, change):
    rows = [{"id": row["id"], "rewrites": [{"score": j} for j in range(4)]} for row in documents(6)]
    return Validity(target_file=str(write(tmp_path / "outcomes.jsonl", change(rows))), target_field="score")


def test_outcomes_of_the_documents_themselves_and_of_a_file(groups, tmp_path):
    kept, table = match_outcomes(groups, Validity())
    assert len(kept) == 6 and table.shape == (6, 4, 2)
    kept, table = match_outcomes(groups, outcome_file(tmp_path, lambda rows: rows))
    assert table.shape == (6, 4, 1) and table[0, :, 0].tolist() == [0, 1, 2, 3]


def test_evenly_spaced_rewrites_keep_their_outcomes(config, tmp_path):
    [group] = read_groups(config, None, 1, 2, evenly=True)
    group = replace(group, candidates=group.candidates[:-1])
    assert [candidate.strategy for candidate in group.candidates] == ["asked", "half"]
    _, table = match_outcomes([group], outcome_file(tmp_path, lambda rows: rows))
    assert table[0, :, 0].tolist() == [0, 2]


def unmatched(rows):
    rows[0]["rewrites"][1] = {}
    rows[1]["rewrites"][0]["score"] = "high"
    rows[1]["rewrites"][1]["score"] = [1.0, math.nan]
    rows[1]["rewrites"][2]["score"] = True
    rows[2]["rewrites"].pop()
    rows[3]["rewrites"][0]["text"] = "another text"
    return rows[:-1]


def test_what_does_not_match_is_counted_and_left_out(groups, tmp_path, capsys):
    settings = outcome_file(tmp_path, unmatched)
    kept, table = match_outcomes(groups, settings.model_copy(update={"most_unmatched": 0.6}))
    # Of the second document one rewrite is left, of the third and the last none.
    assert [len(group.candidates) for group in kept] == [3, 3, 4]
    assert np.isfinite(table).sum() == 10
    said = " ".join(capsys.readouterr().err.split())
    assert "13 of 24 rewrites have no outcome" in said and "3 documents with fewer than two" in said
    for words in (
        "4 of documents with another number of rewrites in the file", "4 of documents that are not in the file",
        "3 whose 'score' are not numbers", "1 without 'score'", "1 with another text in the file",
    ):  # fmt: skip
        assert words in said
    with pytest.raises(UserError, match="13 of 24 rewrites have no outcome"):
        match_outcomes(groups, settings.model_copy(update={"most_unmatched": 0.5}))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "line 1: not JSON"),
        ('{"id": "d0"}', "line 1: no object with `id` and `rewrites`"),
        ("[]", "line 1: no object"),
        ('{"id": 1, "rewrites": []}\n{"id": "1", "rewrites": []}', "'1' stands on two lines"),
    ],
)
def test_a_file_that_is_none_is_refused(groups, tmp_path, content, words):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=words):
        match_outcomes(groups, Validity(target_file=str(path)))


def test_settings_of_the_targets_students_are_checked():
    student = Student(model="m", steps=8)

    def target(**settings):
        return target_student(Config(student=student, validity=Validity(**settings)))

    changed = target(target_student={"steps": 64, "lora": {"rank": 2}})
    assert (changed.steps, changed.lora.rank, changed.lora.alpha, changed.decode) == (64, 2, student.lora.alpha, True)
    assert target(target_measure="loglik") == student
    with pytest.raises(UserError, match="did you mean 'steps'"):
        target(target_student={"step": 64})
    with pytest.raises(UserError, match=r"'student.lora.rank' in validity.target_student.*got 0"):
        target(target_student={"lora": {"rank": 0}})
    with pytest.raises(UserError, match=r"validity.target_student: student.tokens_per_step and student.texts_per_step"):
        target(target_student={"tokens_per_step": 64, "texts_per_step": 2})


def test_documents_say_where_rewrites_are_missing(config, tmp_path):
    rows = list(documents(6))
    rows[0]["rewrites"] = "none"
    write(tmp_path / "documents.jsonl", rows)
    with pytest.raises(UserError, match="must be a list"):
        read_groups(config, None, 6, None, evenly=True)
    assert json.loads((tmp_path / "documents.jsonl").read_text().splitlines()[1])["rewrites"]


def test_documents_without_rewrites_are_left_out_wherever_they_stand(config, tmp_path):
    rows = list(documents(6))
    for number in (1, 5):
        del rows[number]["rewrites"]
    write(tmp_path / "documents.jsonl", rows)
    groups = read_groups(config, None, 4, None, evenly=True)
    assert [group.document.text for group in groups] == [rows[number]["text"] for number in (0, 2, 3, 4)]

"""`kill -9` at every stage of a run: the same command then ends as if it had not been."""

import pytest

from tests.teacher.killing import same

KILLS = {
    "rest_em": ["sampling=2", "students=1", "cached=1", "rest_em=1", "lines=4", "rename=1", "scoring=2"],
    "grpo": ["students=3", "scoring=2", "grpo=1", "lines=3", "saving=1", "rename=2"],
}


@pytest.mark.parametrize("algorithm", KILLS)
def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(run_and_kill, algorithm):
    sections = {"rl": {"algorithm": algorithm}, "reward": {"repeats": 2}}
    whole, killed = run_and_kill(KILLS[algorithm], **sections)
    same(whole, killed)
    assert whole[2].keys() == {"teacher/checkpoint-0001", "teacher/checkpoint-0002"}


def test_validation_and_promotion_survive_kill_9(run_and_kill, student_folder):
    """Real students, DPO: killed in the validation of the untrained teacher, in round 1's sampling, students, scoring,
    update, checkpoint, validation, promotion (training, merging, naming, its line), and in round 2's scoring and
    validation."""
    kills = [
        "evaluate=3", "sampling=1", "students=1", "scoring=1", "dpo=1", "rename=1", "evaluate=3", "keep=1", "merge=1",
        "rename=1", "log=1", "scoring=1", "evaluate=4",
    ]  # fmt: skip
    whole, killed = run_and_kill(
        kills,
        student={
            "model": str(student_folder), "steps": 6, "learning_rate": 0.01, "device": "cpu",
            "lora": {"rank": 4, "alpha": 8.0},
        },
        rl={"algorithm": "dpo", "validation_documents": 4, "promotion_threshold": 0.001, "evaluation_lessons": 1},
    )  # fmt: skip
    same(whole, killed)
    lines = [(line["kind"], line["round"]) for line in whole[0] if line["kind"] in ("validation", "promotion")]
    assert lines[:3] == [("validation", 0), ("validation", 1), ("promotion", 1)]
    assert "gain_of_promoted/mean" in next(x for x in whole[0] if (x["kind"], x["round"]) == ("validation", 2))
    assert "student/promoted-0001/0" in whole[2] or "student/promoted-0002/0" in whole[2]
    total = [line["students_total"] for line in whole[0] if "students_total" in line]
    assert total == sorted(total)


def test_a_run_killed_between_batches_of_students_trains_the_rest_as_they_would_have_been(run_and_kill, student_folder):
    whole, killed = run_and_kill(
        ["kept=2", "kept=3"],
        student={
            "model": str(student_folder), "steps": 2, "device": "cpu", "lora": {"rank": 2, "alpha": 4.0}, "max_slots": 3
        },
        rl={"rounds": 1},
    )  # fmt: skip
    same(whole, killed)

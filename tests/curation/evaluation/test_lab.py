import pytest

from configs.load import load_config
from curation.evaluation.records import read_result
from curation.evaluation.run import run_evaluate


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_preset_runs_from_nothing(tmp_path):
    """Plumbing at a fiftieth of the training: the lab, a teacher for each student, every arm and setting."""
    lab = tmp_path / "lab"
    config = load_config(
        "configs/lab-evaluate.yaml",
        [
            f"run.dir={tmp_path / 'run'}", f"lab.dir={lab}", "lab.effort=0.02",
            f"data.train=[{lab}/shards/train.jsonl]",
            f"data.heldout=[{lab}/shards/heldout.jsonl]", "data.heldout_limit=6", f"teacher.model={lab}/teacher",
            f"student.model={lab}/student-fixed", f"evaluation.retention_texts={lab}/shards/retention.jsonl",
            f"evaluation.students=[{lab}/student-fixed,{lab}/student-augmented]", "student.steps=4",
            "student.tokens_per_step=100", "reward.documents_per_student=2", "rl.rounds=1", "rl.documents_per_round=8",
            "rl.group_size=2", "rl.validation_documents=2", "evaluation.scaling=[2,5]", "evaluation.edits=2",
            "evaluation.sequences=2",
            "evaluation.single_documents=2", "evaluation.seeds=1",
        ],
    )  # fmt: skip
    result = run_evaluate(config)
    assert result == read_result(config.run.dir)
    assert list(result.students) == ["student-fixed", "student-augmented"]
    for student in result.students.values():
        assert len(student.arms) == 14 and {"trained", "best-of:4", "world", "strategy:wrong"} <= set(student.arms)
        assert student.arms["world"].texts == 5 and student.arms["world"].together.gain.n == 6
        assert student.arms["none"].together.benchmarks["lab"].mean == pytest.approx(0, abs=1e-5)
        assert [len(found.accuracy) for found in student.sequences] == [3, 3]

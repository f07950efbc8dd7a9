"""The bench computes what it says: all train the same students, and its figures follow from what was done."""

import json

import pytest
import torch

from configs.errors import RunError, UserError
from student.bench.inputs import biographies, exam_on, lesson_texts, matmul_peak, schedule_flops
from student.bench.report import check_losses, max_difference, median_interval, median_ratio, table
from student.bench.run import Bench, run_bench


@pytest.fixture(scope="module")
def result():
    return run_bench(
        students=4, steps=3, texts_per_lesson=2, rank=4, repeats=2, padded_tokens=64, sweep=(1, 4), device="cpu"
    )


def test_the_keys_are_there_and_are_json(result):
    keys = "students seconds speedup_vs_peft speedup_vs_padded max_loss_difference label_fraction tokens_per_second"
    assert set(keys.split()) | {"model_flops_utilisation"} <= set(result)
    assert json.loads(json.dumps(result)) == result
    assert "separate PEFT runs" in table(result) and "extrapolated" in table(result)
    assert "slower [6.5, 9.2] (" in table(result | {"interval_vs_peft": [6.5, 9.24]})


def test_engine_and_peft_agree_at_every_step(result):
    assert result["max_loss_difference"] < 1e-5


def test_figures_are_consistent_with_the_settings(result):
    assert result["tokens_per_second"] * result["seconds"] == pytest.approx(4 * 3 * result["tokens_per_student_step"])
    assert 0.5 < result["label_fraction"] < 1
    assert 0 < result["model_flops_utilisation"] < 1
    assert [point["students"] for point in result["sweep"]] == [1, 4]
    assert result["share_of_datasheet_peak"] is None
    assert result["seconds_exam"] > 0 and result["students_per_second_with_exam"] < result["students_per_second"]
    assert "with 8 questions each" in table(result)
    assert result["distilled_vs_text"] > 0 and "x the engine's time" in table(result)


def test_each_question_of_the_exam_is_another_one():
    exam = exam_on(["a dog ran over the rug .", "a cat sat ."], 4)
    assert [question.answer for question in exam.questions] == ["rug .", "sat .", "the rug", "cat sat"]
    assert exam_on(["a"], 1).questions[0].prompt == "a" and not exam_on(["a"], 0).questions


def test_the_base_has_the_type_that_is_asked_for():
    assert bench(dtype="bfloat16").base.dtype == torch.bfloat16
    assert bench().base.dtype == torch.float32


def bench(**changes) -> Bench:
    settings = {"model": "lab", "lessons": None, "texts_per_lesson": 1, "steps": 4, "rank": 4, "count": 2}
    return Bench(**(settings | changes), device="cpu")


def test_peft_runs_that_train_otherwise_are_noticed():
    one = bench()
    losses = one.engine(one.schedules).losses
    one.peft.settings = one.peft.settings.model_copy(update={"max_grad_norm": None})
    _, unclipped = one.separate(one.schedules)
    assert max_difference(losses, unclipped) > 1e-5


def test_half_as_many_students_where_the_plan_was_too_large(monkeypatch):
    one = bench(count=5)
    engine, sizes = one.engine, []

    def small(schedules):
        sizes.append(len(schedules))
        if len(schedules) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return engine(schedules)

    monkeypatch.setattr(one, "engine", small)
    assert one.warm_up(one.schedules) == one.schedules[:2] and sizes == [5, 2]


def test_losses_that_differ_end_the_bench():
    assert max_difference([[1.0, float("nan")]], [[1.0, 2.0]]) == max_difference([[1.0]], [[1.0, 2.0]]) == float("inf")
    check_losses({"dtype": "float32", "max_loss_difference": 2e-6})
    check_losses({"dtype": "bfloat16", "max_loss_difference": 0.01})
    for difference in (6e-5, float("nan"), float("inf")):
        with pytest.raises(RunError, match="not of the same work"):
            check_losses({"dtype": "float32", "max_loss_difference": difference})


def test_the_padded_recipe_trains_as_many_steps_as_set():
    one = bench()
    before = torch.cat([p.detach().flatten() for p in one.peft.parameters])
    assert one.peft.padded(one.schedules[0], one.pad_id, length=128, limit=3) == 3
    assert not torch.equal(before, torch.cat([p.detach().flatten() for p in one.peft.parameters]))


def test_both_runs_share_the_base_and_leave_it_alone():
    one = bench()
    weights = [p.detach().clone() for p in one.base.parameters() if not p.requires_grad]
    one.engine(one.schedules)
    one.separate(one.schedules)
    after = [p for p in one.base.parameters() if not p.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(weights, after, strict=True))
    frozen = {p.data_ptr() for p in one.peft.model.parameters() if not p.requires_grad}
    assert {p.data_ptr() for p in after} == frozen


def test_useful_arithmetic_counts_the_base_twice_and_the_adapter_three_times():
    one = bench(steps=1)
    schedule = one.schedules[0]
    [text] = schedule.texts
    tokens, labels = len(text), len(text.labelled)
    layer = 4 * 96 * 96 + 3 * 96 * 256
    adapter = 4 * (4 * (96 + 96) + 3 * (96 + 256))
    by_hand = tokens * 2 * (4 * layer + 6 * adapter) + labels * 4 * 96 * 640 + 2 * 6 * tokens**2 * 96
    assert schedule_flops(one.base, one.pool, [schedule]) == by_hand


def test_ratios_are_taken_within_a_repeat():
    assert median_ratio([2.0, 40.0, 3.0], [1.0, 20.0, 1.0]) == 2.0


def test_the_interval_of_a_median():
    assert median_interval([3.0, 1.0, 2.0, 5.0, 4.0]) is None  # 2 in 32 to miss it
    assert median_interval([6.0, 3.0, 1.0, 2.0, 5.0, 4.0]) == [1.0, 6.0]
    generator = torch.Generator().manual_seed(0)
    draws = torch.empty(400, 25).exponential_(generator=generator).tolist()
    held = sum(low <= 0.6931 <= high for low, high in map(median_interval, draws))
    assert 0.93 < held / 400 < 0.99


def test_lessons_come_from_rewrites_or_texts_and_repeat(tmp_path):
    path = tmp_path / "lessons.jsonl"
    path.write_text('{"text": "x", "rewrites": ["a", "b"]}\n{"text": "c"}\n')
    assert lesson_texts(path, 5) == ["a", "b", "c", "a", "b"]
    assert biographies(8) == biographies(8)


@pytest.mark.parametrize("content", [None, "", "no json\n", '{"other": 1}\n'])
def test_an_unusable_lessons_file_is_one_line(tmp_path, content):
    path = tmp_path / "lessons.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="lessons"):
        lesson_texts(path, 1)


def test_a_misspelt_shape_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="smollm2-135m"):
        run_bench(model="smollm-135m")


def test_the_peak_is_measured():
    assert matmul_peak(torch.device("cpu"), torch.float32, seconds=0.02) > 1e8

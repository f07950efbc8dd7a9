"""bfloat16: where it is taken, and that it gives what float32 gives."""

import copy
import logging

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from configs.schema import Lora, Student
from student.engine import precision
from student.engine.lora import AdapterStack, StackedLinear
from student.engine.models import pick_device
from student.engine.precision import LEAST_WIDTH, attend_in_float32, compare_step, load_student, student_dtype
from student.engine.schedule import plan_schedule
from student.engine.training import train_slots
from student.pools.inline import InlinePool
from tests.student.conftest import SHAPE, build
from tests.student.engine.test_training import LESSONS, LORA, SETTINGS, adapter, distance, train_with_peft

on_cpu = pytest.mark.skipif(pick_device("auto").type == "cuda", reason="about a machine without a GPU")


@pytest.fixture
def folder(tmp_path, tokenizer):
    """`folder(width)`: a model of that width on disk."""

    def make(width):
        torch.manual_seed(0)
        sizes = SHAPE | {"hidden_size": width, "num_hidden_layers": 1}
        LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(tmp_path / str(width))
        tokenizer.save_pretrained(tmp_path / str(width))
        return str(tmp_path / str(width))

    return make


@pytest.fixture
def processor(monkeypatch):
    """`processor(answer)`: a processor that computes bfloat16, or one that does not."""
    return lambda answer: monkeypatch.setattr(precision, "has_bfloat16", lambda device_type: answer)


@on_cpu
def test_auto_takes_bfloat16_for_wide_models_on_a_processor_that_computes_it(folder, processor):
    wide, narrow = folder(LEAST_WIDTH), folder(LEAST_WIDTH // 2)
    processor(True)
    assert student_dtype(Student(model=wide)) == "bfloat16"
    assert student_dtype(Student(model=narrow)) == "float32"
    assert student_dtype(Student(model=wide, mode="full")) == "float32"
    assert student_dtype(Student(model=wide, dtype="float32")) == "float32"
    processor(False)
    assert student_dtype(Student(model=wide)) == "float32"
    assert student_dtype(Student(model=wide, dtype="bfloat16")) == "bfloat16"


@on_cpu
def test_what_auto_takes_is_told_and_is_part_of_the_fingerprint(folder, processor, caplog):
    model = folder(LEAST_WIDTH)
    pools = {}
    processor(True)
    with caplog.at_level(logging.INFO):
        pools["auto"] = InlinePool(Student(model=model))
    assert "trained in bfloat16: one step differs by" in caplog.text
    pools |= {dtype: InlinePool(Student(model=model, dtype=dtype)) for dtype in ("bfloat16", "float32")}
    processor(False)
    pools["auto elsewhere"] = InlinePool(Student(model=model))
    assert [pool.dtype for pool in pools.values()] == ["bfloat16", "bfloat16", "float32", "float32"]
    prints = {name: pool.fingerprint for name, pool in pools.items()}
    assert prints["auto"] == prints["bfloat16"] != prints["float32"] == prints["auto elsewhere"]


@on_cpu
def test_float32_is_taken_where_bfloat16_fails_its_check(folder, processor, monkeypatch, caplog):
    processor(True)
    monkeypatch.setattr(precision, "MARGIN", 1e-6)
    model, _ = load_student(Student(model=folder(LEAST_WIDTH)))
    assert model.dtype == torch.float32
    [line] = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "are trained in float32: bfloat16 fails its check, one step differs by" in line
    model, _ = load_student(Student(model=folder(LEAST_WIDTH), dtype="bfloat16"))
    assert model.dtype == torch.bfloat16, "what the config says is not checked"


def test_a_step_agrees_with_float32_and_the_model_is_left_as_it_was(any_model, tokenizer):
    model = any_model.bfloat16()
    before = copy.deepcopy(model.state_dict())
    step = compare_step(model, tokenizer, LORA)
    assert step.agrees
    assert step.gradient > 1e-4, "the two were not computed in one type"
    assert step == compare_step(model, tokenizer, LORA), "equal bits on every call"
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], tensor) and tensor.dtype == torch.bfloat16 for name, tensor in after.items())
    assert not any(isinstance(module, StackedLinear) for module in model.modules())


def test_a_wrong_product_fails_the_check(llama, tokenizer, monkeypatch):
    """Every product whose result is bfloat16 loses its last sixteenth of rows."""
    real = torch.nn.functional.linear

    def wrong(x, weight, bias=None):
        y = real(x, weight, bias)
        last = torch.arange(y.shape[-1] * 15 // 16, y.shape[-1])
        return y.index_fill(-1, last, 0) if y.dtype == torch.bfloat16 else y

    monkeypatch.setattr(torch.nn.functional, "linear", wrong)
    assert not compare_step(llama.bfloat16(), tokenizer, LORA).agrees


def test_activations_beyond_eight_bits_fail_the_check(tokenizer):
    """A constant in the residual stream, which the norms take away again, leaves bfloat16 no bits for the rest."""
    model = build("gpt_neox").bfloat16()
    with torch.no_grad():
        for layer in model.gpt_neox.layers:
            layer.mlp.dense_4h_to_h.bias.fill_(64.0)
    assert not compare_step(model, tokenizer, LORA).agrees


def test_stacked_equals_separate_peft_in_bfloat16(any_model, tokenizer):
    """PEFT computes a float32 adapter on a bfloat16 base in float32, the engine in the base's type."""
    model = any_model.bfloat16()
    attend_in_float32(model)
    plain = copy.deepcopy(model)
    schedules = [plan_schedule(tokenizer, lesson, SETTINGS) for lesson in LESSONS]
    stack = AdapterStack(model, LORA)
    stack.allocate([lesson.seed for lesson in LESSONS])
    starts = [adapter(stack, slot) for slot in range(len(LESSONS))]
    progress, _ = train_slots(model, stack, schedules, SETTINGS, pad_id=tokenizer.pad_token_id, max_tokens=4096)
    assert stack.params_KP.dtype == torch.float32
    for slot, schedule in enumerate(schedules):
        losses, parameters = train_with_peft(plain, schedule, starts[slot], SETTINGS)
        moved = distance(starts[slot], parameters)
        assert losses[-1] < losses[0]
        assert progress[slot].losses == pytest.approx(losses, rel=0.02)
        assert distance(adapter(stack, slot), parameters) < 0.2 * moved


def test_attention_in_float32_keeps_the_texts_of_a_row_apart(any_model, tokenizer):
    """As transformers' own in float32, but for bfloat16's rounding of what goes in and comes out."""
    model = any_model.bfloat16()
    own = copy.deepcopy(model)
    attend_in_float32(model)
    schedule = plan_schedule(tokenizer, LESSONS[3], SETTINGS.model_copy(update={"texts_per_step": None}))
    losses = []
    for base in (own, model):
        stack = AdapterStack(base, Lora(rank=1, alpha=1))
        stack.allocate([0])
        [progress], _ = train_slots(base, stack, [schedule], SETTINGS, pad_id=tokenizer.pad_token_id, max_tokens=4096)
        losses.append(progress.losses)
    assert losses[0] == pytest.approx(losses[1], rel=0.02)

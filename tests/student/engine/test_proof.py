"""The engine proves itself on a model: bfloat16 where it gives what float32 gives, texts that share rows or do not, and
models that are refused."""

import copy
import logging

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    Lfm2Config,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    OPTConfig,
)

from configs.errors import UserError
from configs.schema import Lora, Student
from student.engine import models, proof
from student.engine.lora import AdapterStack, StackedLinear
from student.engine.models import LEAST_WIDTH, attend_in_float32, pick_device, student_dtype
from student.engine.proof import prove, proved_scorer
from student.engine.schedule import plan_schedule
from student.engine.scores import Scorer
from student.engine.training import train_slots
from student.pools.inline import InlinePool
from student.records import Exam, Job, Question
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

    def answers(answer):
        for module in (models, proof):
            monkeypatch.setattr(module, "has_bfloat16", lambda device_type: answer)

    return answers


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
    assert "base weights in bfloat16; a step in bfloat16 differs by" in caplog.text
    pools |= {dtype: InlinePool(Student(model=model, dtype=dtype)) for dtype in ("bfloat16", "float32")}
    processor(False)
    pools["auto elsewhere"] = InlinePool(Student(model=model))
    assert [pool.proof.dtype for pool in pools.values()] == ["bfloat16", "bfloat16", "float32", "float32"]
    prints = {name: pool.fingerprint for name, pool in pools.items()}
    assert prints["auto"] == prints["bfloat16"] != prints["float32"] == prints["auto elsewhere"]


@on_cpu
def test_float32_is_taken_where_bfloat16_fails_its_check(folder, processor, monkeypatch, caplog):
    processor(True)
    monkeypatch.setattr(proof, "MARGIN", 1e-6)
    scorer, _ = proved_scorer(Student(model=folder(LEAST_WIDTH)))
    assert scorer.model.dtype == torch.float32
    [line] = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "are trained in float32: bfloat16 fails its check, base weights in bfloat16; a step in bfloat16" in line
    scorer, _ = proved_scorer(Student(model=folder(LEAST_WIDTH), dtype="bfloat16"))
    assert scorer.model.dtype == torch.bfloat16, "what the config says is not checked"


def proof_of(model, tokenizer):
    """What is shown of a model whose adapters wrap it for this alone."""
    stack = AdapterStack(model, LORA)
    try:
        return prove(Scorer(model, tokenizer, stack, SETTINGS), rounded=True)
    finally:
        stack.detach()


def test_a_step_agrees_with_float32_and_nothing_else_is_changed(any_model, tokenizer):
    model = any_model.bfloat16()
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    shown = proof_of(model, tokenizer)
    assert shown.agrees and shown.packed and shown.shares_prompts and not shown.left_out
    assert shown.rounding > 1e-4, "the two were not computed in one type"
    assert shown == proof_of(model, tokenizer), "equal bits on every call"
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], tensor) and tensor.dtype == torch.bfloat16 for name, tensor in after.items())
    assert not any(isinstance(module, StackedLinear) for module in model.modules())
    assert torch.equal(random_state, torch.get_rng_state())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())


def test_a_wrong_product_fails_the_check(llama, tokenizer, monkeypatch):
    """Every product whose result is bfloat16 loses its last sixteenth of rows."""
    real = torch.nn.functional.linear

    def wrong(x, weight, bias=None):
        y = real(x, weight, bias)
        last = torch.arange(y.shape[-1] * 15 // 16, y.shape[-1])
        return y.index_fill(-1, last, 0) if y.dtype == torch.bfloat16 else y

    monkeypatch.setattr(torch.nn.functional, "linear", wrong)
    assert not proof_of(llama.bfloat16(), tokenizer).agrees


def test_activations_beyond_eight_bits_fail_the_check(tokenizer):
    """A constant in the residual stream, which the norms take away again, leaves bfloat16 no bits for the rest."""
    model = build("gpt_neox").bfloat16()
    with torch.no_grad():
        for layer in model.gpt_neox.layers:
            layer.mlp.dense_4h_to_h.bias.fill_(64.0)
    assert not proof_of(model, tokenizer).agrees


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


def family(name):
    """A tiny model of a family that does not read the borders of packed texts, or is refused."""
    torch.manual_seed(0)
    attention = {**SHAPE, "num_key_value_heads": 1, "head_dim": 16}
    mixed = {"layer_types": ["conv", "full_attention"]}
    config = {
        "llama": lambda: LlamaConfig(**attention),
        "opt": lambda: OPTConfig(**SHAPE, ffn_dim=64, word_embed_proj_dim=32),
        "bloom": lambda: BloomConfig(vocab_size=SHAPE["vocab_size"], hidden_size=32, n_layer=2, n_head=2),
        "mamba": lambda: MambaConfig(vocab_size=SHAPE["vocab_size"], hidden_size=32, state_size=8, num_hidden_layers=2),
        "lfm2": lambda: Lfm2Config(**SHAPE, num_key_value_heads=1, **mixed),
        "gemma2": lambda: Gemma2Config(**attention),
        "cohere": lambda: CohereConfig(**SHAPE, num_key_value_heads=1),
        "llama4": lambda: Llama4TextConfig(**attention, intermediate_size_mlp=64, num_local_experts=2),
    }[name]()
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    return model


def gains(name, tokenizer, **settings):
    """Of two students who are asked with distractors, with the pool."""
    pool = InlinePool(SETTINGS.model_copy(update=settings), model=family(name), tokenizer=tokenizer)
    question = Question(prompt="where did the cat sat ?", answer="on the mat", distractors=("rug", "the blue sea"))
    other = Question(prompt="what ?", answer="the red rug", distractors=("a", "sea"))
    jobs = [Job(lesson=lesson, exam=Exam(questions=(question, other))) for lesson in LESSONS]
    outcomes = pool.examine(jobs)
    assert all(outcome.error is None for outcome in outcomes)
    answers = [answer for outcome in outcomes for answer in outcome.answers]
    return [figure for a in answers for figure in (a.loglik_before, a.loglik_after, a.gain_of("contrast"))], pool


@pytest.mark.wild
@pytest.mark.parametrize(
    ("name", "packed"), [("opt", False), ("bloom", False), ("mamba", False), ("lfm2", False), ("llama", True)]
)
def test_the_length_of_rows_changes_last_bits_only(name, packed, tokenizer, caplog):
    short, pool = gains(name, tokenizer, row_tokens=8)
    long, _ = gains(name, tokenizer, row_tokens=256)
    assert short == pytest.approx(long, abs=1e-4)
    assert pool.proof.packed == packed and pool.settings.row_tokens == (8 if packed else 1)
    assert ("one text a row" in caplog.text) != packed
    assert pool.proof.left_out == (("dt_proj",) if name == "mamba" else ())
    assert pool.gradient_alignments(
        [Job(lesson=LESSONS[0], exam=Exam(questions=(Question(prompt="what ?", answer="the rug"),)))]
    )


@pytest.mark.wild
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gemma2", "Gemma2ForCausalLM) cannot be a student: it changes its logits after the output layer"),
        ("cohere", "CohereForCausalLM) cannot be a student: it changes its logits after the output layer"),
        ("llama4", "Llama4ForCausalLM) cannot be a student: its code fails"),
    ],
)
def test_a_model_that_the_engine_would_get_wrong_is_refused_by_name(name, reason, tokenizer):
    with pytest.raises(UserError) as caught:
        InlinePool(SETTINGS, model=family(name), tokenizer=tokenizer)
    assert reason in str(caught.value) and len(str(caught.value).splitlines()) == 1

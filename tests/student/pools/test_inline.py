"""The engine as its callers see it: jobs in, outcomes out."""

import copy
import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

import student.engine.training
import student.pools.inline
from configs.errors import UserError
from configs.schema import Lora, Student
from student.engine.memory import STATE_BYTES, PeakBytes
from student.engine.models import load_model
from student.engine.schedule import plan_schedule
from student.engine.training import StackedAdamW, train_slots
from student.pools.inline import InlinePool
from student.records import Exam, Job, Lesson, Question, mean_gain
from tests.student.conftest import build

SETTINGS = Student(lora=Lora(rank=4, alpha=8), learning_rate=2e-2, steps=15, decode=True, max_answer_tokens=4)
EXAM = Exam(
    questions=(
        Question(prompt="where did the cat sat ?", answer="mat", document_id="cat"),
        Question(prompt="what is red ?", answer="the rug", distractors=("a sea",), document_id="rug"),
        Question(prompt="what is blue ?", answer="the sea", split="heldout", document_id="rug"),
    ),
    retention_texts=("the bird flew over the sea .",),
)
HELPFUL = Lesson(texts=("where did the cat sat ? mat", "what is red ? the rug", "what is blue ? the sea"))
FILLER = Lesson(texts=("it was it was it was",))


def jobs(*lessons):
    return [Job(lesson=lesson, exam=EXAM) for lesson in lessons]


@pytest.fixture
def pool(llama, tokenizer):
    return InlinePool(SETTINGS, model=llama, tokenizer=tokenizer)


def test_a_lesson_that_holds_the_answers_helps(pool):
    helpful, filler = pool.examine(jobs(HELPFUL, FILLER))
    assert helpful.gain > 1 > filler.gain
    assert helpful.metrics["accuracy_after"] == 1.0
    assert helpful.metrics["heldout_accuracy_after"] == 1.0
    assert helpful.answers[1].extra["choice_after"] == 1.0
    assert helpful.answers[1].extra["exact_match_after"] == 1.0
    assert helpful.gain == pytest.approx(mean_gain(helpful.answers[:2], "loglik"))
    assert helpful.metrics["retention_after"] != helpful.metrics["retention_before"]
    assert helpful.metrics["label_fraction"] > 0.5


def test_identical_lessons_give_identical_outcomes_in_every_slot(pool):
    first, *others = pool.examine(jobs(*[HELPFUL] * 6))
    for other in others:
        assert other.gain == pytest.approx(first.gain, abs=1e-5)
    repeat = pool.examine(jobs(dataclasses.replace(HELPFUL, seed=1)))
    assert abs(repeat[0].gain - first.gain) > 1e-4


def test_the_same_seed_gives_the_same_bits(tokenizer):
    runs = [
        InlinePool(SETTINGS, model=build("llama"), tokenizer=tokenizer).examine(jobs(HELPFUL, FILLER)) for _ in "ab"
    ]
    assert runs[0] == runs[1]


def test_outcomes_do_not_depend_on_the_other_students(pool):
    lessons = [
        HELPFUL,
        FILLER,
        Lesson(texts=("the dog ran .",) * 7, steps=3),
        Lesson(texts=("the sea is blue .",), steps=9),
    ]
    together = pool.examine(jobs(*lessons))
    alone = [pool.examine(jobs(lesson))[0] for lesson in lessons]
    assert [o.gain for o in together] == pytest.approx([o.gain for o in alone], abs=1e-4)


def test_an_empty_lesson_changes_nothing(pool):
    [outcome] = pool.examine(jobs(Lesson(texts=())))
    assert outcome.gain == 0.0
    assert outcome.metrics["steps"] == 0


def test_out_of_memory_halves_the_students_and_loses_nothing(llama, tokenizer, monkeypatch, pool):
    lessons = [HELPFUL, FILLER, *[dataclasses.replace(HELPFUL, seed=s) for s in range(1, 7)]]
    expected = pool.examine(jobs(*lessons))
    real, sizes = student.pools.inline.train_slots, []

    def train_slots(model, stack, schedules, *args, **kwargs):
        sizes.append(len(schedules))
        if len(schedules) > 2:
            raise torch.OutOfMemoryError("injected")
        return real(model, stack, schedules, *args, **kwargs)

    monkeypatch.setattr(student.pools.inline, "train_slots", train_slots)
    outcomes = pool.examine(jobs(*lessons))
    assert sizes == [8] * 5 + [4] * 5 + [2] * 4, "first by smaller passes, which is not enough"
    assert [o.gain for o in outcomes] == pytest.approx([o.gain for o in expected], abs=1e-4)


def test_out_of_memory_in_a_pass_starts_again_with_smaller_ones_and_the_same_students(pool, monkeypatch):
    """A backward pass runs out of memory in the second step, as long as passes have more than 24 positions."""
    lessons = jobs(*[dataclasses.replace(HELPFUL, seed=s) for s in range(8)])
    expected = pool.examine(lessons)
    batches, backward, real = [], torch.Tensor.backward, student.engine.training.batch_loss

    def batch_loss(model, batch):
        batches.append(batch.positions)
        return real(model, batch)

    def limited(loss):
        if len(batches) > 1 and batches[-1] > 24:
            raise torch.OutOfMemoryError("injected")
        backward(loss)

    monkeypatch.setattr(student.pools.inline, "CPU_PASS_TOKENS", 96)
    monkeypatch.setattr(student.engine.training, "batch_loss", batch_loss)
    monkeypatch.setattr(torch.Tensor, "backward", limited)
    outcomes = pool.examine(lessons)
    assert max(batches) > 24 >= max(batches[-8:])
    assert sum(len(o.answers) for o in outcomes) == 8 * len(EXAM.questions)
    assert [o.gain for o in outcomes] == pytest.approx([o.gain for o in expected], abs=1e-4)


def test_out_of_memory_with_one_student_is_an_outcome(pool, monkeypatch):
    def train_slots(*args, **kwargs):
        raise torch.OutOfMemoryError("injected")

    monkeypatch.setattr(student.pools.inline, "train_slots", train_slots)
    outcomes = pool.examine(jobs(HELPFUL, FILLER))
    assert [o.gain for o in outcomes] == [None, None]
    assert "out of memory" in outcomes[0].error


def test_a_nan_touches_one_slot_only(pool, monkeypatch):
    lessons = [dataclasses.replace(HELPFUL, seed=s) for s in range(4)]
    expected = pool.examine(jobs(*lessons))
    real = StackedAdamW.step

    def step(self, number, *args):
        norm = real(self, number, *args)
        if number == 3:
            self.params_KP[2] = float(
                "nan"
            )  # from here on it goes through forward, backward, loss and exam with the others
        return norm

    monkeypatch.setattr(StackedAdamW, "step", step)
    outcomes = pool.examine(jobs(*lessons))
    assert outcomes[2].gain is None
    assert "diverged at step 4" in outcomes[2].error
    for slot in (0, 1, 3):
        assert outcomes[slot].gain == pytest.approx(expected[slot].gain, abs=1e-4)


def test_a_student_that_diverges_is_an_outcome(pool):
    good, bad = pool.examine(jobs(HELPFUL, Lesson(texts=("the cat sat .",), learning_rate=1e30)))
    assert bad.gain is None
    assert bad.error
    assert good.gain > 1


def test_an_exported_slot_is_a_peft_adapter(any_model, tokenizer, tmp_path):
    any_model.save_pretrained(tmp_path / "base")
    pool = InlinePool(SETTINGS, model=any_model, tokenizer=tokenizer)
    outcome = pool.keep(jobs(HELPFUL)[0], tmp_path / "student")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32).eval()
    exported = PeftModel.from_pretrained(base, tmp_path / "student").eval()
    ids = torch.tensor([tokenizer("where did the cat sat ? mat")["input_ids"]])
    with torch.no_grad():
        logliks = exported(input_ids=ids).logits[0].log_softmax(-1)
    assert logliks[-2, ids[0, -1]].item() == pytest.approx(outcome.answers[0].loglik_after, abs=1e-4)


def test_full_fine_tuning_learns_and_gives_the_base_back(llama, tokenizer):
    before = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    settings = SETTINGS.model_copy(update={"mode": "full", "learning_rate": 5e-3})
    pool = InlinePool(settings, model=llama, tokenizer=tokenizer)
    helpful, filler = pool.examine(jobs(HELPFUL, FILLER))
    assert helpful.gain > 1 > filler.gain
    assert all(torch.equal(before[name], tensor) for name, tensor in llama.state_dict().items())


def test_a_full_student_that_diverges_leaves_nothing_to_the_next(llama, tokenizer):
    settings = SETTINGS.model_copy(update={"mode": "full", "learning_rate": 5e-3})
    pool = InlinePool(settings, model=llama, tokenizer=tokenizer)
    first, bad, again = pool.examine(jobs(HELPFUL, dataclasses.replace(HELPFUL, learning_rate=1e30), HELPFUL))
    assert bad.error is not None
    assert again == first


def test_a_lesson_without_a_token_to_learn_is_an_error(pool):
    [outcome] = pool.examine(jobs(dataclasses.replace(HELPFUL, loss_on="anwser")))
    assert outcome.gain is None
    assert "loss_on" in outcome.error


def test_one_long_lesson_does_not_make_the_others_go_alone(pool, monkeypatch):
    """An out-of-memory limits the passes of the call it happens in, not those of the pool, and nobody's company."""
    real, sizes = student.pools.inline.train_slots, []

    def train_slots(model, stack, schedules, *args, max_tokens, **kwargs):
        sizes.append((len(schedules), max_tokens))
        if len(sizes) == 1:
            raise RuntimeError("CUDA error: out of memory")
        return real(model, stack, schedules, *args, max_tokens=max_tokens, **kwargs)

    monkeypatch.setattr(student.pools.inline, "train_slots", train_slots)
    pool.examine(jobs(*[HELPFUL] * 4))
    pool.examine(jobs(*[HELPFUL] * 4))
    assert sizes == [(4, 4096), (4, 2048), (4, 4096)]


def test_gradient_checkpointing_changes_nothing(llama, tokenizer, pool, monkeypatch):
    """Backward, and so what is computed again in it, has a thread of its own on a GPU."""
    expected = pool.examine(jobs(HELPFUL))[0]
    settings = SETTINGS.model_copy(update={"gradient_checkpointing": True})
    model, passes, backward = build("llama"), [], torch.Tensor.backward

    def elsewhere(loss):
        passes.append("backward")
        with ThreadPoolExecutor(1) as thread:
            thread.submit(backward, loss).result()

    monkeypatch.setattr(torch.Tensor, "backward", elsewhere)
    layer = model.model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: passes.append("forward") if torch.is_grad_enabled() else None)
    checkpointed = InlinePool(settings, model=model, tokenizer=tokenizer).examine(jobs(HELPFUL))[0]
    trained = passes[-3 * SETTINGS.steps :]
    assert trained == ["forward", "backward", "forward"] * SETTINGS.steps, "each layer is computed again"
    assert checkpointed.gain == pytest.approx(expected.gain, abs=1e-4)
    decoded, plain = ([a.extra["exact_match_after"] for a in o.answers] for o in (checkpointed, expected))
    assert decoded == plain
    assert sum(plain) >= 2


def test_a_model_without_linear_layers_is_refused(tokenizer):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(UserError, match=r"a gpt2 has no nn\.Linear layers"):
        InlinePool(SETTINGS, model=model, tokenizer=tokenizer)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # minutes of compiling, on a busy machine many
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_layers_change_nothing(tokenizer):
    """In a model of more layers than torch compiles one piece of code for: layers share what is compiled."""
    config = build("llama").config
    config.num_hidden_layers = torch._dynamo.config.recompile_limit + 2
    lessons = jobs(HELPFUL, FILLER, dataclasses.replace(HELPFUL, seed=1))
    outcomes = []
    for compiled in (False, True):
        torch.manual_seed(0)
        settings = SETTINGS.model_copy(update={"compile": compiled, "steps": 3})
        pool = InlinePool(settings, model=LlamaForCausalLM(config).eval(), tokenizer=tokenizer)
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
            outcomes.append(pool.examine(lessons))
    eager, compiled = outcomes
    assert [o.error for o in compiled] == [None] * 3
    assert [o.gain for o in compiled] == pytest.approx([o.gain for o in eager], abs=1e-4)
    assert max(abs(o.gain) for o in eager) > 0.01


def test_compiling_without_a_compiler_is_one_line(llama, tokenizer, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match="needs a C"):
        InlinePool(SETTINGS.model_copy(update={"compile": True}), model=llama, tokenizer=tokenizer)


def test_the_fingerprint_names_what_outcomes_depend_on(tokenizer):
    def fingerprint(model=None, **changes):
        settings = SETTINGS.model_copy(update=changes)
        return InlinePool(settings, model=model or build("llama"), tokenizer=tokenizer).fingerprint

    other = build("llama")
    with torch.no_grad():
        next(iter(other.parameters()))[0, 0] += 1e-3
    assert fingerprint() == fingerprint() == fingerprint(max_slots=3, memory_fraction=0.1)
    stretched, ended = build("llama"), copy.deepcopy(tokenizer)
    stretched.config.rms_norm_eps = 1e-3
    ended.eos_token = "mat"
    assert (
        fingerprint(stretched)
        != fingerprint()
        != InlinePool(SETTINGS, model=build("llama"), tokenizer=ended).fingerprint
    )
    tokenizer(["the cat", "the"], padding=True)
    assert fingerprint() == InlinePool(SETTINGS, model=build("llama"), tokenizer=copy.deepcopy(tokenizer)).fingerprint
    assert len({fingerprint(), fingerprint(other), fingerprint(learning_rate=1e-3), fingerprint(steps=3)}) == 4


def test_a_gpus_plan_gives_students_their_share_and_passes_the_rest(pool, monkeypatch):
    """The arithmetic alone, of an H100 with a small model: what it stands for is held by the tests on fake GPUs."""
    monkeypatch.setattr(student.pools.inline, "free_bytes", lambda device: 10**6)
    monkeypatch.setattr(type(pool.model), "device", torch.device("cuda"))
    monkeypatch.setattr(student.pools.inline, "logit_bytes", lambda head: 1000)
    lessons = [plan_schedule(pool.tokenizer, dataclasses.replace(HELPFUL, seed=s), SETTINGS) for s in range(64)]
    state = pool.stack.size * STATE_BYTES
    plan, free = pool.plan(lessons), 10**6 * SETTINGS.memory_fraction
    assert plan.students == int(0.75 * free / state) > 1
    assert plan.train_tokens == int((free - plan.students * state - 1000) / pool.position_bytes[0]) > 1
    assert pool.plan(lessons[:1]).train_tokens > plan.train_tokens, "fewer students leave more to a pass"


def test_what_the_plan_measures_is_what_training_holds(llama, tokenizer):
    """In the mode that trains: checkpointing keeps a fraction, and eval mode would not show it."""
    sizes = {}
    for checkpoints in (False, True):
        settings = SETTINGS.model_copy(update={"gradient_checkpointing": checkpoints})
        pool = InlinePool(settings, model=build("llama"), tokenizer=tokenizer)
        schedules = [plan_schedule(tokenizer, dataclasses.replace(HELPFUL, seed=s), settings) for s in range(8)]
        pool.stack.allocate(range(8))
        pool.model.train(checkpoints)
        with PeakBytes() as memory:
            train_slots(pool.model, pool.stack, schedules, settings, pad_id=0, max_tokens=4096)
        positions = sum(schedule.largest_step() for schedule in schedules)
        moments = 8 * pool.stack.size * STATE_BYTES // 2
        planned = moments + positions * pool.position_bytes[0]
        logits = positions * 4 * len(tokenizer)
        assert planned < memory.peak < 1.1 * planned + logits
        sizes[checkpoints] = pool.position_bytes
    assert sizes[False][0] == pytest.approx(sizes[True][1], rel=0.05)
    assert sizes[False][0] > 1.5 * sizes[True][0]


def test_adapters_and_activations_of_a_large_model_are_bounded_on_a_cpu(pool, monkeypatch):
    lessons = [dataclasses.replace(HELPFUL, seed=s) for s in range(6)]
    expected = pool.examine(jobs(*lessons))
    assert pool.plan([]).train_tokens == student.pools.inline.CPU_PASS_TOKENS
    real, sizes = student.pools.inline.train_slots, []

    def train_slots(model, stack, schedules, *args, max_tokens, **kwargs):
        sizes.append((len(schedules), max_tokens))
        return real(model, stack, schedules, *args, max_tokens=max_tokens, **kwargs)

    monkeypatch.setattr(student.pools.inline, "train_slots", train_slots)
    bound = 2 * pool.stack.size * STATE_BYTES
    monkeypatch.setattr(student.pools.inline, "CPU_BYTES", bound)
    outcomes = pool.examine(jobs(*lessons))
    assert [students for students, _ in sizes] == [2, 2, 2]
    assert all(tokens == int(bound / pool.position_bytes[0]) for _, tokens in sizes)
    assert [o.gain for o in outcomes] == pytest.approx([o.gain for o in expected], abs=1e-4)


@pytest.mark.parametrize("name", ["", "models/nothing-here", "no-such-model"])
def test_a_path_that_is_no_model_is_one_line(name):
    with pytest.raises(UserError) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_one_line(tmp_path):
    (tmp_path / "notes.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match=r"holds no config\.json"):
        load_model(str(tmp_path))


def test_a_misspelt_target_layer_is_refused_with_the_nearest(llama, tokenizer):
    settings = SETTINGS.model_copy(update={"lora": Lora(target=("q_prj",))})
    with pytest.raises(UserError, match="did you mean 'q_proj'"):
        InlinePool(settings, model=llama, tokenizer=tokenizer)


def test_a_student_without_texts_is_the_base_and_is_asked_once(pool, monkeypatch):
    asked = []
    grade = pool.examiner._grade
    monkeypatch.setattr(
        pool.examiner, "_grade", lambda questions, *rest: asked.extend(questions) or grade(questions, *rest)
    )
    none, told = pool.examine(jobs(Lesson(texts=()), Lesson(texts=("what is red ? the rug",))))
    assert none.gain == 0.0 and all(answer.gain_of("loglik") == 0.0 for answer in none.answers)
    assert none.metrics["retention_after"] == none.metrics["retention_before"]
    assert told.gain > 0
    assert len(asked) == 2 * len(EXAM.questions)

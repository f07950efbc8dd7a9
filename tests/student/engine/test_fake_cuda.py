"""The engine for true shapes on fake tensors, which have a device, a type and a shape, and no data.

`make cuda-torch && .venv/cuda/bin/python -m pytest -m fake_cuda -rP`. Each test prints its figures. Without a GPU torch
takes no backward pass on fake `cuda` (its engine asks for the device's context). So steps run on a fake CPU, where
memory, kernels and waits are the same, and once more on a fake GPU without their backward passes. What values decide is
not seen: the engine's proof of itself is left out, and decoding, which ends where an end token was sampled.
"""

import traceback
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, GPT2Tokenizer

import student.pools.inline
from configs.schema import Lora, Student
from student.bench.inputs import SHAPES, biographies, exam_on
from student.engine.lora import AdapterStack
from student.engine.loss import CHUNK_ELEMENTS, logit_bytes
from student.engine.memory import STATE_BYTES, PeakBytes
from student.engine.schedule import plan_schedule
from student.engine.scores import Scorer
from student.engine.training import train_slots
from student.pools.inline import InlinePool
from student.records import Exam, Lesson, Proof

pytestmark = [
    pytest.mark.fake_cuda,
    pytest.mark.skipif(torch.version.cuda is None, reason="needs `make cuda-torch`"),
]

PARAMETERS = {
    "smollm2-135m": 134.5e6, "qwen2.5-0.5b": 494.0e6, "llama-3.2-1b": 1.2358e9, "gemma-3-1b": 999.9e6,
    "gemma-3-4b": 3.880e9, "qwen3-4b": 4.022e9, "qwen2.5-7b": 7.616e9, "olmo-2-7b": 7.299e9, "qwen3-8b": 8.191e9,
}  # fmt: skip
"""Published sizes; of Gemma 3 4B that of its text decoder."""

STUDENTS, STEP_TOKENS, PASS_TOKENS = 4, 2048, 4096
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "baddbmm_", "addmm_"}


class Watch(TorchDispatchMode):
    """Counts what a GPU would be asked to do, and where the host would wait for it."""

    def __init__(self, device):
        super().__init__()
        self.device = device
        self.kernels, self.uploads, self.waits, self.wrong = 0, 0, Counter(), []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if name == "_local_scalar_dense":
            self.wait()
            return False if given[0].dtype == torch.bool else 0
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        there = [tensor for tensor in made if tensor.device.type == self.device]
        if name == "_to_copy" and given[0].device != made[0].device:
            self.uploads += bool(there)
            if not there:
                self.wait()
        elif name == "_fused_adamw_" or (
            there and not func.is_view and name not in ("empty", "empty_like", "new_empty", "detach")
        ):
            self.kernels += 1
        # Products of one column with one row are rotary embeddings, which stay in float32, as does attention on a fake
        # GPU, for which torch takes no fused kernel.
        narrow = name not in PRODUCTS or given[-2].shape[-1] == 1 or all(t.dtype == torch.bfloat16 for t in given)
        if not narrow and not any("sdpa_attention" in frame.filename for frame in traceback.extract_stack()):
            self.wrong.append(f"{name} of {[tensor.dtype for tensor in given]}")
        if any(tensor.dtype == torch.float64 for tensor in made):
            self.wrong.append(f"{name} gives float64")
        if there and name != "_to_copy" and any(t.device.type != self.device and t.dim() for t in given):
            self.wrong.append(f"{name} reads the host's memory")
        return result

    def wait(self):
        frames = [frame.filename for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
        here = [name for name in frames if "/tests/" not in name and ("/student/" in name or "/transformers/" in name)]
        self.waits["/".join(here[-1].rsplit("/", 2)[-2:])] += 1


@pytest.fixture
def fake_pool(monkeypatch):
    """`fake_pool(shape, device, **settings)`: a pool of students on a fake device, and lessons of a step each."""
    texts = biographies(100 * STUDENTS)
    tokenizer = GPT2Tokenizer().train_new_from_iterator(texts, 2000)
    tokenizer.pad_token = tokenizer.eos_token
    plain = Student(steps=1, lora=Lora(rank=32, alpha=64), tokens_per_step=STEP_TOKENS, device="cpu")
    lessons = [Lesson(texts=tuple(texts[100 * k : 100 * k + 100]), seed=k) for k in range(STUDENTS)]
    schedules = [plan_schedule(tokenizer, lesson, plain) for lesson in lessons]

    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", CHUNK_ELEMENTS["cuda"])

    def make(shape, device, **changes):
        settings = plain.model_copy(update=changes)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(SHAPES[shape], dtype=torch.bfloat16).eval()
        scorer = Scorer(model, tokenizer, AdapterStack(model, settings.lora), settings)
        scorer.shares_prompts = True
        proved = scorer, Proof("bfloat16", packed=True, shares_prompts=True)
        monkeypatch.setattr(student.pools.inline, "proved_scorer", lambda *_: proved)
        pool = InlinePool(settings, model=model, tokenizer=tokenizer)
        return pool, schedules

    return make


def count_reads(monkeypatch, watch):
    """Has all reads come to the watch: those of whole tensors, which are no kernel, and the looks at values by which
    transformers chooses masks, which it leaves out under a tracer."""

    def tolist(self):
        watch.wait()
        return np.zeros(self.shape).tolist()

    monkeypatch.setattr(FakeTensor, "tolist", tolist)
    monkeypatch.setattr("transformers.masking_utils.is_tracing", lambda *_: False)


def step_of(monkeypatch, pool, schedules, max_tokens, backward=True):
    """What the device does in a step of these students, and the peak of its memory beside the base."""
    watch = Watch(pool.model.device.type)
    with monkeypatch.context() as patched, PeakBytes() as memory:
        count_reads(patched, watch)
        if not backward:
            patched.setattr(torch.Tensor, "backward", lambda loss: None)
        pool.stack.allocate(list(range(len(schedules))))
        pool.model.train(pool.settings.gradient_checkpointing)
        with watch:
            train_slots(pool.model, pool.stack, schedules, pool.settings, pad_id=pool.pad_id, max_tokens=max_tokens)
        pool.model.eval()
    assert {(t.dtype, t.device.type) for t in (pool.stack.params_KP, pool.stack.grads_KP)} == {
        (torch.float32, watch.device)
    }
    pool.stack.release()
    assert not watch.wrong, Counter(watch.wrong)
    return watch, memory.peak


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("shape", PARAMETERS)
def test_a_step_of_a_true_shape(fake_pool, monkeypatch, shape, checkpointing):
    with FakeTensorMode(allow_non_fake_inputs=True):
        pool, schedules = fake_pool(shape, "cpu", gradient_checkpointing=checkpointing)
        assert sum(p.numel() for p in pool.model.parameters()) == pytest.approx(PARAMETERS[shape], rel=2e-3)
        state, logits = STUDENTS * pool.stack.size * STATE_BYTES, logit_bytes(pool.examiner.scorer.head)
        planned = state + logits + PASS_TOKENS * pool.position_bytes[0]
        free = (planned + 1) / pool.settings.memory_fraction
        with monkeypatch.context() as patched:  # planned as for a GPU
            patched.setattr(type(pool.model), "device", torch.device("cuda"))
            patched.setattr(student.pools.inline, "STATE_SHARE", 1.0)
            patched.setattr(student.pools.inline, "free_bytes", lambda _: free)
            plan = pool.plan(schedules)
        assert (plan.students, plan.train_tokens) == (STUDENTS, PASS_TOKENS)
        watch, peak = step_of(monkeypatch, pool, schedules, plan.train_tokens)
        error = planned / peak - 1
        print(
            f"| {shape} | {'yes' if checkpointing else 'no'} | {pool.position_bytes[0] / 1e3:,.0f} kB |"
            f" {planned / 1e9:.2f} GB | {peak / 1e9:.2f} GB | {error:+.1%} | {watch.kernels:,} | {dict(watch.waits)} |"
        )
        assert abs(error) < 0.1
        assert watch.waits.pop("engine/training.py") == 1, "all losses and norms at the end"
        assert set(watch.waits) <= {"transformers/masking_utils.py"}, "and nothing else of ours"


@pytest.mark.parametrize("shape", PARAMETERS)
def test_a_step_without_its_backward_pass_and_an_exam_on_a_fake_gpu(fake_pool, monkeypatch, shape):
    with FakeTensorMode(allow_non_fake_inputs=True):
        pool, schedules = fake_pool(shape, "cuda")
        step, _ = step_of(monkeypatch, pool, schedules, PASS_TOKENS, backward=False)
        assert step.waits["engine/training.py"] == 1
        questions = exam_on(biographies(8), 8).questions
        asked = [replace(q, distractors=("glass", "a mill")[: 2 * (n % 2)]) for n, q in enumerate(questions)]
        exam = Exam(questions=tuple(asked))
        pool.stack.allocate(list(range(STUDENTS)))
        watch = Watch("cuda")
        with monkeypatch.context() as patched, watch:
            count_reads(patched, watch)
            results = pool.examiner.after([exam] * STUDENTS, PASS_TOKENS)
        assert [len(result.grades) for result in results] == [8] * STUDENTS
        assert not watch.wrong, Counter(watch.wrong)
        print(f"| {shape} | {step.uploads} | exam: {watch.kernels:,} | {watch.uploads} | {dict(watch.waits)} |")
        assert watch.waits.pop("engine/scores.py") == 2, "the scores of shared prompts and of texts"
        assert set(watch.waits) <= {"transformers/masking_utils.py"}

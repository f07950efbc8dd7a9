"""Stacked students equal separate PEFT students, in losses and in weights."""

import copy
import itertools
import math
from collections import Counter, defaultdict

import pytest
import torch
from peft import LoraConfig, get_peft_model

import student.engine.training
from configs.schema import Lora, Student
from student.engine.lora import AdapterStack
from student.engine.packing import even_runs, pack, positions
from student.engine.schedule import plan_schedule, step_order, step_pieces
from student.engine.training import train_slots
from student.records import Lesson, Segment

LORA = Lora(rank=4, alpha=8)
LESSONS = [
    Lesson(texts=("the cat sat on the mat .", "where did it sit ? the mat"), seed=1),
    Lesson(
        texts=("the dog ran over the red rug . it was green .",),
        learning_rate=3e-2,
        steps=4,
        schedule="linear",
        warmup_steps=0,
        seed=2,
    ),
    Lesson(texts=((Segment("prompt", "what is red ?"), Segment("answer", " the rug")),), loss_on="answer", seed=1),
    Lesson(
        texts=("the bird flew .", "a blue sea", "the sea is green . the sea is blue ."),
        document_ids=("bird", "sea", "sea"),
        seed=3,
    ),
]
SETTINGS = Student(
    lora=LORA, learning_rate=1e-2, steps=8, texts_per_step=2, schedule="cosine", warmup_steps=2,
    weight_decay=0.01, max_grad_norm=0.5,
)  # fmt: skip


def train_with_peft(model, schedule, start, settings):
    """One student as a careful user would train it: PEFT, torch's AdamW, one unpadded text after the other."""
    config = LoraConfig(r=LORA.rank, lora_alpha=LORA.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    student = get_peft_model(copy.deepcopy(model), config)
    parameters = {name: p for name, p in student.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(start[name])
    optimiser = torch.optim.AdamW(parameters.values(), lr=1.0, weight_decay=settings.weight_decay)
    losses = []
    for step in range(schedule.steps):
        # Documents' means over their labelled tokens; a text that comes twice is two texts.
        of_documents = defaultdict(list)
        for index in schedule.order[step]:
            text = schedule.texts[index]
            ids = torch.from_numpy(text.ids)[None]
            logits = student(input_ids=ids).logits[0]
            target = ids[0, text.labelled]
            of_documents[schedule.owners[index]].append(
                torch.nn.functional.cross_entropy(logits[text.labelled - 1], target, reduction="none")
            )
        total = torch.stack([torch.cat(parts).mean() for parts in of_documents.values()]).mean()
        losses.append(total.item())
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), settings.max_grad_norm)
        warmup, rate = schedule.warmup_steps, schedule.learning_rate
        if step < warmup:
            rate *= (step + 1) / (warmup + 1)
        elif schedule.decay == "linear":
            rate *= 1 - (step - warmup) / (schedule.steps - warmup)
        else:
            rate *= 0.5 * (1 + math.cos(math.pi * (step - warmup) / (schedule.steps - warmup)))
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
        optimiser.zero_grad()
    return losses, parameters


def adapter(stack, slot):
    """A slot's weights under PEFT's parameter names."""
    weights = {}
    for name, layer in stack.layers.items():
        weights[f"base_model.model.{name}.lora_A.default.weight"] = layer.a_KrI[slot].detach().clone()
        weights[f"base_model.model.{name}.lora_B.default.weight"] = layer.b_KrO[slot].detach().t().clone()
    return weights


def distance(left, right):
    return math.sqrt(sum((left[name] - right[name]).pow(2).sum().item() for name in left))


@pytest.mark.parametrize("row_tokens", [None, 24, 64])
def test_stacked_equals_separate_peft(any_model, tokenizer, row_tokens):
    """Ragged lengths, per-slot learning rate, steps and loss mask, equal shares a document, clipping active."""
    settings = SETTINGS.model_copy(update={"row_tokens": row_tokens})
    plain = copy.deepcopy(any_model)
    schedules = [plan_schedule(tokenizer, lesson, settings) for lesson in LESSONS]
    stack = AdapterStack(any_model, LORA)
    stack.allocate([lesson.seed for lesson in LESSONS])
    starts = [adapter(stack, slot) for slot in range(len(LESSONS))]
    progress, usage = train_slots(any_model, stack, schedules, settings, pad_id=tokenizer.pad_token_id, max_tokens=4096)
    assert usage.labels > 0
    for slot, schedule in enumerate(schedules):
        losses, parameters = train_with_peft(plain, schedule, starts[slot], settings)
        assert len(losses) == (4 if slot == 1 else 8)
        assert progress[slot].losses == pytest.approx(losses, abs=1e-5)
        assert losses[-1] < losses[0]
        # Adam turns a gradient of rounding errors into a full step, so single weights cannot be compared: the whole
        # can.
        moved = distance(starts[slot], parameters)
        assert distance(adapter(stack, slot), parameters) < 1e-3 * moved


def test_texts_that_come_twice_in_a_step_equal_two_copies_under_peft(llama, tokenizer):
    """Lessons of fewer tokens than a step: every text counts as often as it comes, and is computed once."""
    settings = SETTINGS.model_copy(update={"texts_per_step": None, "tokens_per_step": 60})
    plain = copy.deepcopy(llama)
    lessons = [LESSONS[0], LESSONS[3]]
    schedules = [plan_schedule(tokenizer, lesson, settings) for lesson in lessons]
    for schedule in schedules:
        counts = [set(Counter(step).values()) for step in schedule.order]
        assert any(len(of_step) > 1 for of_step in counts), "no step has one text oftener than another"
        assert all(tokens < 60 for tokens in schedule.computed_tokens())
        longest = max(map(len, schedule.texts))
        assert abs(schedule.tokens() - 60 * schedule.steps) <= longest
    stack = AdapterStack(llama, LORA)
    stack.allocate([lesson.seed for lesson in lessons])
    starts = [adapter(stack, slot) for slot in range(len(lessons))]
    progress, usage = train_slots(llama, stack, schedules, settings, pad_id=tokenizer.pad_token_id, max_tokens=4096)
    for slot, schedule in enumerate(schedules):
        losses, parameters = train_with_peft(plain, schedule, starts[slot], settings)
        assert progress[slot].losses == pytest.approx(losses, abs=1e-5)
        assert distance(adapter(stack, slot), parameters) < 1e-3 * distance(starts[slot], parameters)
    labels = sum(
        len(schedule.texts[i].labelled) for schedule in schedules for step in schedule.order for i in set(step)
    )
    assert usage.labels == labels


def test_clipping_is_active_in_the_comparison(llama, tokenizer):
    """The test above would fail without clipping: other students come out."""
    schedules = [plan_schedule(tokenizer, lesson, SETTINGS) for lesson in LESSONS]
    losses = []
    for limit in (0.5, None):
        settings = SETTINGS.model_copy(update={"max_grad_norm": limit})
        stack = AdapterStack(copy.deepcopy(llama), LORA)
        stack.allocate([1] * 4)
        progress, _ = train_slots(
            stack.model, stack, schedules, settings, pad_id=tokenizer.pad_token_id, max_tokens=4096
        )
        losses.append(progress[0].losses[-1])
    assert abs(losses[0] - losses[1]) > 1e-4


def test_equal_seeds_start_equal_whatever_the_number_of_slots(llama):
    stack = AdapterStack(llama, LORA)
    stack.allocate([7])
    alone = stack.params_KP[0].clone()
    stack.allocate([3, 7, 7, 5])
    assert torch.equal(stack.params_KP[1], alone)
    assert torch.equal(stack.params_KP[2], alone)
    assert not torch.equal(stack.params_KP[0], alone)


def test_a_seed_always_gives_the_same_start(llama):
    """Cached outcomes started from these bits: a seed's numbers, layer by layer."""
    stack, generator = AdapterStack(llama, LORA), torch.Generator().manual_seed(7)
    stack.allocate([3, 7])
    for layer in stack.layers.values():
        width = layer.base.in_features
        drawn = (torch.rand(LORA.rank * width, generator=generator) * 2 - 1) / math.sqrt(width)
        assert torch.equal(layer.a_KrI[1], drawn.view(LORA.rank, width))
        assert not layer.b_KrO.any()


def test_accumulated_steps_equal_whole_ones(llama, tokenizer):
    schedules = [plan_schedule(tokenizer, lesson, SETTINGS) for lesson in LESSONS]
    weights = []
    for max_tokens in (4096, 16):
        stack = AdapterStack(copy.deepcopy(llama), LORA)
        stack.allocate([1, 2, 1, 3])
        train_slots(stack.model, stack, schedules, SETTINGS, pad_id=tokenizer.pad_token_id, max_tokens=max_tokens)
        weights.append(stack.params_KP.clone())
    assert torch.allclose(*weights, atol=2e-5)


def test_rslora_scales_by_the_root_of_the_rank(llama):
    assert AdapterStack(llama, Lora(rank=16, alpha=8, rslora=True)).scale == 2.0


def test_steps_share_documents_equally():
    """Three documents with 1, 2 and 5 texts share every step equally, and each text of a document comes in turn."""
    owners = [0, 1, 1, 2, 2, 2, 2, 2]
    order = step_order(owners, seed=0, steps=10, epochs=1, texts_per_step=3)
    assert all(sorted(owners[i] for i in step) == [0, 1, 2] for step in order)
    counts = [sum(step.count(i) for step in order) for i in range(8)]
    assert counts == [10, 5, 5, 2, 2, 2, 2, 2]
    assert order == step_order(owners, seed=0, steps=10, epochs=1, texts_per_step=3)
    assert order != step_order(owners, seed=1, steps=10, epochs=1, texts_per_step=3)


@pytest.mark.parametrize("length", [8, 16, 33])
def test_equal_tokens_a_step_whatever_the_length_of_a_text(length):
    """Lessons of short and of long texts get the same tokens over all steps, and at no step are they more than a text
    apart."""
    order = step_order(
        [0] * 40, seed=0, steps=12, epochs=1, texts_per_step=None, lengths=[length] * 40, tokens_per_step=64
    )
    assert len(order) == 12
    met = list(itertools.accumulate(length * len(step) for step in order))
    assert all(abs(tokens - 64 * number) <= length / 2 for number, tokens in enumerate(met, start=1))


def test_steps_of_tokens_share_documents_equally():
    """Documents of one, two and five texts of very different lengths take turns, however short a text is."""
    owners, lengths = [0, 1, 1, 2, 2, 2, 2, 2], [90, 20, 10, 30, 8, 15, 40, 25]
    settings = {"steps": 30, "epochs": 1, "texts_per_step": None, "lengths": lengths, "tokens_per_step": 60}
    order = step_order(owners, seed=0, **settings)
    assert all(order)
    dealt = [sum(owners[i] == owner for step in order for i in step) for owner in range(3)]
    assert max(dealt) - min(dealt) <= 1
    assert order == step_order(owners, seed=0, **settings)
    assert order != step_order(owners, seed=1, **settings)


def test_a_text_longer_than_a_step_makes_a_step_alone():
    order = step_order([0], seed=0, steps=3, epochs=1, texts_per_step=None, lengths=[100], tokens_per_step=10)
    assert order == [[0], [0], [0]]


def test_the_step_order_of_cached_outcomes_is_kept():
    """Cached outcomes were trained in this order."""
    order = step_order([0, 1, 1, 2], seed=3, steps=4, epochs=1, texts_per_step=2)
    assert order == [[2, 0], [3], [0, 1], [3]]


@pytest.mark.parametrize("max_tokens", [1000, 100, 30])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_no_other_division_has_a_shorter_longest_run(count, max_tokens):
    lengths = [47, 40, 40, 36, 33, 33, 20, 8]

    def longest(runs):
        return max(positions(lengths[run], max_tokens) for run in runs)

    runs = even_runs(lengths, count, max_tokens)
    assert [place for run in runs for place in range(8)[run]] == list(range(8)) and len(runs) <= count
    divisions = (itertools.combinations(range(1, 8), cuts) for cuts in range(count))
    edges = [(0, *cuts, 8) for cuts in itertools.chain.from_iterable(divisions)]
    assert longest(runs) == min(longest([slice(a, b) for a, b in itertools.pairwise(ends)]) for ends in edges)


def test_positions_are_those_of_the_packed_batches(tokenizer):
    """Students of a text each, sorted by length; packing may take a further pass where that saves positions."""
    texts = [" ".join(["cat"] * n) for n in (90, 88, 85, 80, 50, 50, 49)]
    schedules = [plan_schedule(tokenizer, Lesson(texts=(text,), steps=2), SETTINGS) for text in texts]
    lengths = [schedule.largest_step() for schedule in schedules]
    pieces = [piece for slot, schedule in enumerate(schedules) for piece in step_pieces(slot, schedule, 0)]
    for max_tokens in (2000, 200, 80):
        batches = pack(pieces, len(schedules), 0, torch.device("cpu"), max_tokens=max_tokens)
        assert positions(lengths, max_tokens) == sum(batch.positions for batch in batches)


def test_parts_that_would_be_small_or_uneven_stay_in_one_process(tokenizer, monkeypatch):
    def parts(*numbers, cores=2):
        texts = [" ".join(["cat"] * n) for n in numbers]
        schedules = [plan_schedule(tokenizer, Lesson(texts=(text,), steps=2), SETTINGS) for text in texts]
        return student.engine.training._parts(schedules, cores, 4096)

    monkeypatch.setattr(student.engine.training, "PART_TOKENS", 100)
    assert parts(*[40] * 8) == [slice(0, 4), slice(4, 8)]
    assert parts(*[40] * 8, cores=4) == [slice(0, 3), slice(3, 6), slice(6, 8)]
    assert parts(*[20] * 8) == [slice(0, 8)]  # 160 tokens
    assert parts(400, 40, 40, 40) == [slice(0, 4)]
    assert parts(300, 100, 100, 100) == [slice(0, 1), slice(1, 4)]
    assert parts() == [slice(0, 0)]
    assert parts(0, 0) == [slice(0, 2)]  # lessons without text


def test_one_document_gives_plain_shuffled_epochs():
    order = step_order([0] * 5, seed=0, steps=None, epochs=2, texts_per_step=2)
    assert [len(step) for step in order] == [2, 2, 1, 2, 2, 1]
    assert sorted(i for step in order[:3] for i in step) == list(range(5))


def test_documents_share_the_update_equally(tokenizer):
    """A document with one short text weighs as much as one with two long texts."""
    schedule = plan_schedule(tokenizer, LESSONS[3], SETTINGS.model_copy(update={"texts_per_step": None}))
    pieces = step_pieces(0, schedule, 0)
    assert len(pieces) == 3
    weight = {0: 0.0, 1: 0.0}
    for piece in pieces:
        owner = next(o for text, o in zip(schedule.texts, schedule.owners, strict=True) if text is piece.text)
        weight[owner] += piece.share * len(piece.text.labelled)
    assert weight == pytest.approx({0: 0.5, 1: 0.5})

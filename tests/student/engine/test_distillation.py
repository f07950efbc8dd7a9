"""Students that learn what the base expects with the document before it."""

import copy
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from configs.schema import Student
from student.engine.lora import AdapterStack
from student.engine.loss import CHUNK_ELEMENTS, likeliest_logliks, linear_cross_entropy
from student.engine.schedule import plan_schedule
from student.engine.scores import Scorer
from student.engine.training import train_slots
from student.pools.inline import InlinePool
from student.records import Exam, Job, Lesson, Question
from tests.student.engine.test_training import LESSONS, LORA, SETTINGS, adapter, distance

CAT, DOG = "the cat sat on the red mat . it was a green rug", "a dog ran over the blue sea . where is the bird ?"
DISTILLED = [
    Lesson(
        texts=("the mat is red", "where did the cat sat ? on the mat", "the cat sat"), contexts=(CAT,) * 3, seed=1
    ),
    Lesson(
        texts=("the dog ran .", "the rug was green", "a blue sea ."), contexts=(DOG, CAT, DOG),
        document_ids=("dog", "cat", "dog"), learning_rate=3e-2, steps=5, schedule="linear", warmup_steps=0, seed=2,
    ),
]  # fmt: skip
MIXED = [DISTILLED[0], LESSONS[3], DISTILLED[1]]


def scorer_of(model, tokenizer, settings, shares):
    scorer = Scorer(model, tokenizer, None, settings)
    scorer.shares_prompts = shares
    return scorer


def base_logliks(model, tokenizer, context, text):
    """What the base says at each token of a text but the first, with the document before it: (L, V)."""
    before = tokenizer(f"{context}\n\n", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*before, *text.ids.tolist()]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(before) :]
    return logits[text.labelled - 1].log_softmax(-1)


def divergence(student_LV, base_LV, count):
    """As `student.engine.loss` says it, by probabilities alone."""
    p_LV, q_LV = base_LV.double().exp(), student_LV.double().exp()
    top = p_LV.topk(count, dim=-1).indices
    p, q = p_LV.gather(1, top), q_LV.gather(1, top)
    p, q = (torch.cat([part, 1 - part.sum(-1, keepdim=True)], dim=1) for part in (p, q))
    return (p * (p.log() - q.log())).sum(-1).float()


def train_with_peft(model, tokenizer, lesson, schedule, start, count):
    """A distilled student by PEFT, autograd and torch's AdamW, a text at a time."""
    config = LoraConfig(r=LORA.rank, lora_alpha=LORA.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    student = get_peft_model(copy.deepcopy(model), config)
    parameters = {name: p for name, p in student.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(start[name])
    optimiser = torch.optim.AdamW(parameters.values(), lr=1.0, weight_decay=SETTINGS.weight_decay)
    losses = []
    for step in range(schedule.steps):
        of_documents = {}
        for index in schedule.order[step]:
            text = schedule.texts[index]
            base_LV = base_logliks(model, tokenizer, lesson.contexts[index], text)
            logits = student(input_ids=torch.from_numpy(text.ids)[None]).logits[0, text.labelled - 1]
            parts = of_documents.setdefault(schedule.owners[index], [])
            parts.append(divergence(logits.log_softmax(-1), base_LV, count))
        total = torch.stack([torch.cat(parts).mean() for parts in of_documents.values()]).mean()
        losses.append(total.item())
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), SETTINGS.max_grad_norm)
        optimiser.param_groups[0]["lr"] = student_rate(schedule, step)
        optimiser.step()
        optimiser.zero_grad()
    return losses, parameters


def student_rate(schedule, step):
    done = (step - schedule.warmup_steps) / (schedule.steps - schedule.warmup_steps)
    if step < schedule.warmup_steps:
        return schedule.learning_rate * (step + 1) / (schedule.warmup_steps + 1)
    if schedule.decay == "linear":
        return schedule.learning_rate * (1 - done)
    return schedule.learning_rate * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * done)).item())


@pytest.mark.parametrize(("row_tokens", "shares"), [(64, True), (1, False)])
def test_stacked_equals_separate_peft(any_model, tokenizer, row_tokens, shares, monkeypatch):
    """Packed rows and one text a row, documents read once or before each text, beside a student that learns texts."""
    monkeypatch.setattr("student.engine.scores.TARGET_TOKENS", 5)
    settings = SETTINGS.model_copy(update={"row_tokens": row_tokens})
    plain = copy.deepcopy(any_model)
    scorer = scorer_of(any_model, tokenizer, settings, shares)
    schedules = [scorer.with_targets(plan_schedule(tokenizer, lesson, settings), 4096) for lesson in MIXED]
    stack = AdapterStack(any_model, LORA)
    stack.allocate([lesson.seed for lesson in MIXED])
    starts = [adapter(stack, slot) for slot in range(len(MIXED))]
    progress, _ = train_slots(any_model, stack, schedules, settings, pad_id=tokenizer.pad_token_id, max_tokens=4096)
    for slot in (0, 2):
        losses, parameters = train_with_peft(plain, tokenizer, MIXED[slot], schedules[slot], starts[slot], 5)
        assert len(losses) == (5 if slot == 2 else 8)
        assert progress[slot].losses == pytest.approx(losses, abs=1e-5)
        assert losses[-1] < losses[0]
        assert distance(adapter(stack, slot), parameters) < 1e-3 * distance(starts[slot], parameters)
    # The student between them is what it is without them.
    stack.allocate([MIXED[1].seed])
    alone, _ = train_slots(any_model, stack, schedules[1:2], settings, pad_id=tokenizer.pad_token_id, max_tokens=4096)
    assert progress[1].losses == pytest.approx(alone[0].losses, abs=1e-5)


def test_the_loss_and_its_gradients_are_those_of_the_formula(monkeypatch):
    """Chunk by chunk, in hidden states and in the output layer's weights; with all tokens but one kept it is the whole
    divergence."""
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", 400)  # ten positions
    torch.manual_seed(0)
    head, hidden, base = torch.nn.Linear(6, 40), torch.randn(30, 6, requires_grad=True), torch.randn(30, 6) * 3
    share, target = torch.rand(30), torch.randint(40, (30,))
    found = {}
    for count in (3, 39, 50):
        targets = likeliest_logliks(base, head, count)
        loss, loss_N, _ = linear_cross_entropy(hidden, head, target, share, targets)
        student, expected = head(hidden).log_softmax(-1), head(base).log_softmax(-1).detach()
        plain_N = divergence(student, expected, min(count, 39))
        assert loss_N.tolist() == pytest.approx(plain_N.tolist(), abs=1e-5)
        ours = torch.autograd.grad(loss, (hidden, head.weight))
        theirs = torch.autograd.grad((plain_N * share).sum(), (hidden, head.weight))
        assert all(torch.allclose(a, b, atol=2e-5) for a, b in zip(ours, theirs, strict=True))
        found[count] = loss_N
    assert torch.equal(found[39], found[50])
    whole = (expected.exp() * (expected - student)).sum(-1)
    assert torch.allclose(found[39], whole, atol=1e-5)
    assert (found[3] < whole).all()


POOL = Student(lora=LORA, learning_rate=1e-2, steps=8, max_text_tokens=8, prompt_template="{question}")
EXAM = Exam(questions=(Question(prompt="where did the cat sat ?", answer="mat"),))


def pool_of(model, tokenizer, **settings):
    return InlinePool(POOL.model_copy(update=settings), model=copy.deepcopy(model), tokenizer=tokenizer)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_students_of_a_pool_do_not_depend_on_others_and_a_lesson_is_read_once(llama, tokenizer, mode, monkeypatch):
    """Also of a text that goes on in several parts."""
    long = Lesson(texts=("the cat sat on the red mat . it was green . where did the dog sat",), contexts=(CAT,), seed=3)
    lessons = [DISTILLED[0], long, DISTILLED[0], LESSONS[0]]
    together = pool_of(llama, tokenizer, mode=mode).examine([Job(lesson=lesson, exam=EXAM) for lesson in lessons])
    assert all(outcome.error is None for outcome in together)
    assert together[0].gain == pytest.approx(together[2].gain, abs=1e-5)
    pool, read = pool_of(llama, tokenizer, mode=mode), []
    real = pool.examiner.scorer._expected
    monkeypatch.setattr(pool.examiner.scorer, "_expected", lambda *given: read.append(1) or real(*given))
    for lesson, outcome in zip([long, long, DISTILLED[0]], [together[1], together[1], together[0]], strict=True):
        [alone] = pool.examine([Job(lesson=lesson, exam=EXAM)])
        assert alone.gain == pytest.approx(outcome.gain, abs=1e-5)
        assert alone.metrics["train_loss_last"] == pytest.approx(outcome.metrics["train_loss_last"], abs=1e-5)
    assert len(read) == 2
    text = replace(long, contexts=())
    [other] = pool.examine([Job(lesson=text, exam=EXAM)])
    assert other.metrics["lesson_tokens"] == together[1].metrics["lesson_tokens"]
    assert abs(other.gain - together[1].gain) > 1e-3


def test_what_cannot_be_distilled_fails_alone(llama, tokenizer):
    llama.config.max_position_embeddings = 24
    pool = pool_of(llama, tokenizer)
    lessons = [
        Lesson(texts=("the mat is red",), contexts=(f"{DOG} {DOG}",)),
        Lesson(texts=("the mat is red",), contexts=(" ",)),
        DISTILLED[0],
    ]
    long, empty, good = pool.examine([Job(lesson=lesson, exam=EXAM) for lesson in lessons])
    assert long.error == "a text with its document before it is 32 tokens, and the model reads 24"
    assert empty.error == "a document is empty: nothing is to be distilled"
    assert good.error is None
    assert pool.gradient_alignments([Job(lesson=lesson, exam=EXAM) for lesson in lessons])[:2] == [None, None]

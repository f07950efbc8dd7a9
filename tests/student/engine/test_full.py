"""All weights of one student: steps that are given, states, and products in bfloat16."""

import copy

import pytest
import torch

import student.engine.proof
from configs.schema import Student
from student.engine.full import train_full
from student.engine.loss import linear_cross_entropy
from student.engine.proof import prove
from student.engine.schedule import Step, schedule_of_steps
from student.engine.scores import Scorer
from student.pools.inline import InlinePool
from student.records import Segment

SETTINGS = Student(mode="full", learning_rate=5e-3, warmup_steps=2, schedule="linear")
READ = Step(("the cat sat on the mat .", "a bird flew over the sea ."), "all")
ASK = Step((
    (Segment("prompt", "where did the cat sat ?"), Segment("answer", " mat")),
    (Segment("prompt", "where did the bird flew ?"), Segment("answer", " sea")),
), "answer")  # fmt: skip
BLOCKS = [[READ, READ, ASK, ASK]] * 10


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def train(model, schedule, tokenizer, **options):
    return train_full(model, schedule, SETTINGS, tokenizer.pad_token_id, 4096, **options)


def test_given_steps_keep_their_order_and_what_they_learn(tokenizer):
    one = schedule_of_steps(tokenizer, BLOCKS, SETTINGS, tokens=1)
    assert one.order == [[0, 1], [0, 1], [2, 3], [2, 3]], "the first block in any case"
    schedule = schedule_of_steps(tokenizer, BLOCKS, SETTINGS, tokens=3 * one.tokens() - 1)
    assert schedule.order == one.order * 2, "blocks are whole, and no more than that many tokens"
    learnt = [tokenizer.decode(text.ids[text.labelled]) for text in schedule.texts]
    assert learnt[0] == " cat sat on the mat .<eos>" and learnt[2] == " mat<eos>"


def test_a_text_without_a_token_to_learn_is_left_out(tokenizer):
    short = SETTINGS.model_copy(update={"max_text_tokens": 8})
    long = (Segment("prompt", "the cat sat on the mat . " * 3), Segment("answer", " mat"))
    schedule = schedule_of_steps(tokenizer, [[Step((long, *ASK.texts), "answer")]] * 2, short, tokens=99)
    learnt = [tokenizer.decode(text.ids[text.labelled]) for text in schedule.texts]
    assert schedule.order == [[0, 1, 2]] * 2 and learnt[0] == " mat<eos>", "of a long prompt the last part is kept"


def test_a_callback_stops_it_and_the_base_comes_back(llama, tokenizer):
    base, schedule, seen = weights(llama), schedule_of_steps(tokenizer, BLOCKS, SETTINGS, tokens=200), []

    def go_on(training):
        assert not llama.training
        seen.append(training.done)
        return training.done < 3

    with train(llama, schedule, tokenizer, go_on=go_on) as training:
        assert seen == [0, 1, 2, 3] and training.done == 3 and training.progress.error is None
        assert not equal(base, weights(llama))
    assert equal(base, weights(llama))
    seen.clear()
    with train(llama, schedule, tokenizer, go_on=lambda t: seen.append(t.done) or True) as training:
        assert seen == list(range(schedule.steps + 1)), "before each step and after the last"
        assert training.progress.losses[-1] < training.progress.losses[2] / 2, "answers are learnt"


def test_a_state_goes_on_with_the_same_bits(llama, tokenizer, tmp_path):
    schedule, base = schedule_of_steps(tokenizer, BLOCKS, SETTINGS, tokens=200), weights(llama)

    def keep(training):
        if training.done == 5:
            torch.save(training.state(), tmp_path / "state.pt")
        return True

    with train(llama, schedule, tokenizer, go_on=keep) as training:
        whole, losses, usage = weights(llama), training.progress.losses, training.usage
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    with train(copy.deepcopy(llama), schedule, tokenizer, state=state) as training:
        assert equal(weights(training.model), whole)
        assert (training.progress.losses, training.usage) == (losses, usage)
    assert equal(weights(training.model), base)


def test_products_in_bfloat16_train_alike(any_model, tokenizer):
    """On every processor: where there are no units for it, it is slow and as exact."""
    scorer = Scorer(any_model, tokenizer, None, SETTINGS)
    proof = prove(scorer, rounded=True)
    assert proof.packed and proof.agrees and proof.rounding > 1e-4
    schedule, ends, base = schedule_of_steps(tokenizer, BLOCKS, SETTINGS, tokens=200), [], weights(any_model)
    for autocast in (False, True):
        with train(any_model, schedule, tokenizer, autocast=autocast) as training:
            assert {parameter.dtype for parameter in any_model.parameters()} == {torch.float32}
            ends.append((training.progress.losses, weights(any_model)))
    (exact, exact_weights), (rounded, rounded_weights) = ends
    assert rounded != exact
    assert rounded == pytest.approx(exact, abs=0.1)
    moved = [sum((w[n] - base[n]).square().sum().item() for n in base) for w in (exact_weights, rounded_weights)]
    assert moved[1] == pytest.approx(moved[0], rel=0.1)


def test_a_processor_that_rounds_wrongly_is_found_out(llama, tokenizer, monkeypatch, caplog):
    monkeypatch.setattr("student.engine.proof.has_bfloat16", lambda device_type: True)
    assert InlinePool(SETTINGS, model=llama, tokenizer=tokenizer).autocast
    exact = SETTINGS.model_copy(update={"dtype": "float32"})
    assert not InlinePool(exact, model=llama, tokenizer=tokenizer).autocast
    assert all(parameter.grad is None for parameter in llama.parameters())
    real = student.engine.proof.batch_loss

    def wrong_when_rounded(model, batch):
        loss, *rest = real(model, batch)
        return (-loss if torch.is_autocast_enabled("cpu") else loss), *rest

    monkeypatch.setattr(student.engine.proof, "batch_loss", wrong_when_rounded)
    assert not InlinePool(SETTINGS, model=llama, tokenizer=tokenizer).autocast
    assert "trained in float32" in caplog.text


def test_a_tie_that_rounding_made_is_no_right_answer():
    """Two tokens with logits that only float32 tells apart: of rounded ones the first is likeliest."""
    head = torch.nn.Linear(4, 3, bias=False)
    head.weight.data = torch.tensor([[1.0] * 4, [1.0005] * 4, [-1.0] * 4])
    hidden, target, share = torch.ones(2, 4), torch.tensor([0, 1]), torch.ones(2)
    assert linear_cross_entropy(hidden, head, target, share)[2].tolist() == [False, True]
    with torch.autocast("cpu", torch.bfloat16):
        assert linear_cross_entropy(hidden, head, target, share)[2].tolist() == [True, False]

import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from transformers import LlamaForCausalLM
from trl import GRPOConfig, GRPOTrainer

from student.records import Outcome
from teacher.algorithms import grpo
from teacher.algorithms.algorithm import SamplingRound
from teacher.algorithms.distributed import Ranks
from teacher.algorithms.trainers import Pass
from teacher.gates.checks import build_gates
from teacher.records import Reward
from teacher.run.clock import Clock
from teacher.writers.local import load_teacher

TAGS = ("copy", "question-answer", "permuted")


class Score:
    """Rewards that are a known function of the rewrite, and what was scored."""

    def __init__(self, value=lambda rewrite: float(rewrite.text.split().count("gold"))):
        self.value = value
        self.steps: list[list] = []

    def __call__(self, step, groups):
        assert step == len(self.steps) + 1
        self.steps.append(groups)
        return [[Reward(value=self.value(w), outcome=Outcome(gain=0.0)) for w in group] for group in groups]


def train(config, documents, score, round=1):
    writer = load_teacher(config.teacher, train_seed=config.run.seed)
    gates = build_gates(config.gates, config.teacher, writer.tokenizer)
    metrics, optimizer = grpo.train_round(sampling_round(config, writer, documents, gates, score, round))
    return writer, metrics, optimizer


def sampling_round(config, writer, documents=(), gates=(), score=None, number=1):
    return SamplingRound(
        config=config, number=number, writer=writer, documents=documents, gates=gates, score=score, start=None,
        clock=Clock(), ranks=Ranks(),
    )  # fmt: skip


def grpo_config(make_config, **sections):
    sections = {name: dict(section) for name, section in sections.items()}
    sections["rl"] = {"algorithm": "grpo", "group_size": 4, "grpo": {"kl": 0.0}, **sections.get("rl", {})}
    return make_config(**sections)


@pytest.mark.parametrize(
    ("documents", "sizes"), [(1, [1]), (8, [8]), (9, [5, 4]), (48, [8] * 6), (50, [8] + [7] * 6), (3, [3])]
)
def test_steps_are_even_and_leave_no_document_out(make_config, documents, sizes):
    config = grpo_config(make_config, reward={"documents_per_student": 8})
    assert grpo.step_sizes(config.reward, documents) == sizes
    assert sum(sizes) == documents


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8.0}])
def test_every_document_is_scored_once_in_whole_groups_of_sets(make_config, make_documents, lora):
    config = grpo_config(
        make_config, teacher={"lora": lora}, rl={"rewrites_per_lesson": 3, "group_size": 2, "grpo": {"kl": 0.01}}
    )
    score = Score()
    writer, metrics, optimizer = train(config, make_documents(9), score)
    assert [len(groups) for groups in score.steps] == [3, 3, 3]
    names = [group[0].document_id for groups in score.steps for group in groups]
    assert names == [f"shop-{i}" for i in range(9)]
    for group in (group for groups in score.steps for group in groups):
        assert len(group) == 6
        assert len({rewrite.document_id for rewrite in group}) == 1
    assert metrics["kept"] == 54
    assert metrics["kl"] >= 0
    assert "default" in writer.model.peft_config if lora else True
    steps = {int(state["step"]) for state in optimizer.state.values()}
    assert steps == {3}


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8.0}])
def test_a_round_that_does_not_divide_evenly_takes_a_smaller_step(make_config, make_documents, lora):
    config = grpo_config(make_config, teacher={"lora": lora}, rl={"grpo": {"kl": 0.01}})
    score = Score()
    _, metrics, optimizer = train(config, make_documents(7), score)
    assert [len(groups) for groups in score.steps] == [4, 3]
    assert [group[0].document_id for groups in score.steps for group in groups] == [f"shop-{i}" for i in range(7)]
    assert {int(state["step"]) for state in optimizer.state.values()} == {2}, "both steps trained the same weights"
    assert metrics["kept"] == 28


def test_a_round_out_of_memory_begins_again_with_the_same_rewrites(make_config, make_documents, monkeypatch):
    config = grpo_config(make_config, teacher={"batch_size": 8})
    scored, weights, losses = [], [], []
    for failures in (0, 2):
        seen, backward = [], Accelerator.backward

        def limited(self, loss, *, seen=seen, backward=backward, failures=failures, **others):
            seen.append(loss)
            if len(seen) <= failures:
                raise torch.OutOfMemoryError("injected")
            return backward(self, loss, **others)

        def score(step, groups, scored=scored):
            scored.append([rewrite.text for group in groups for rewrite in group])
            values = [[float(len(w.text)) for w in group] for group in groups]
            return [[Reward(value=value, outcome=Outcome(gain=0.0)) for value in group] for group in values]

        with monkeypatch.context() as patched:
            patched.setattr(Accelerator, "backward", limited)
            writer, metrics, _ = train(config, make_documents(4), score)
        assert len(seen) == (2 if failures == 0 else 2 + 4), "16 rewrites: 2 passes of 8, or at last 4 of 4"
        weights.append([p.detach().clone() for p in writer.model.parameters()])
        losses.append(metrics["loss"])
    assert len(scored) == 4 and all(texts == scored[0] for texts in scored)
    start = load_teacher(config.teacher, train_seed=config.run.seed).model.parameters()
    apart = sum(float((a - b).square().sum()) for a, b in zip(*weights, strict=True))
    moved = sum(float((a - b.detach()).square().sum()) for a, b in zip(weights[0], start, strict=True))
    assert moved > 0 and (apart / moved) ** 0.5 < 1e-2
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_advantages_are_centred_on_the_mean_of_all_lessons_of_a_document(make_config, make_documents, monkeypatch):
    config = grpo_config(make_config, rl={"rewrites_per_lesson": 2, "group_size": 4})
    score = Score(lambda rewrite: len(rewrite.completion) + 100.0 * int(rewrite.document_id[-1]))
    seen = spy_on_batches(monkeypatch)
    train(config, make_documents(4), score)
    [batch] = seen
    values_DG = torch.tensor([[score.value(rewrite) for rewrite in group] for group in score.steps[0]])
    assert values_DG.shape == (4, 8)
    expected = (values_DG - values_DG.mean(1, keepdim=True)).flatten()
    assert torch.allclose(batch["advantages"], expected, atol=1e-3)
    assert "old_per_token_logps" not in batch, "TRL then takes the model's own, and the ratio is 1"


def test_a_rewrite_that_did_not_end_is_refused(make_config, make_documents):
    for refuse in (True, False):
        score = Score()
        train(grpo_config(make_config, gates={"truncated": refuse}), make_documents(4), score)
        rewrites = [rewrite for groups in score.steps for group in groups for rewrite in group]
        assert {rewrite.ended for rewrite in rewrites} == {True, False}
        assert any(rewrite.rejected == "truncated" for rewrite in rewrites) == refuse
        assert all(rewrite.rejected != "truncated" for rewrite in rewrites if rewrite.ended)


def test_dealt_strategies_are_sampled_from_and_learnt(make_config, make_documents, monkeypatch):
    config = grpo_config(make_config, rl={"explore": 1.0, "explore_rounds": 2, "rewrites_per_lesson": 2})
    score = Score(lambda rewrite: float(rewrite.strategy == "permuted"))
    seen = spy_on_batches(monkeypatch)
    policies = spy_on_logps(monkeypatch)
    writer, _, _ = train(config, make_documents(7), score)
    groups = [group for groups in score.steps for group in groups]
    assert Counter(rewrite.strategy for group in groups for rewrite in group).keys() == set(TAGS)
    for group in groups:
        for first, second in zip(group[::2], group[1::2], strict=True):
            assert first.strategy == second.strategy, "a lesson is dealt as a whole"
        assert len({rewrite.strategy for rewrite in group}) == 3
    tags = {writer.tokenizer.convert_tokens_to_ids(f"<{tag}>") for tag in TAGS}
    for batch in seen:
        assert set(batch["completion_ids"][:, 0].tolist()) == tags
        assert batch["completion_mask"][:, 0].all(), "the tag itself is learnt"
        assert "tool_mask" not in batch
        assert batch["completion_ids"].shape[1] <= 10, "tag included"
    # Without old log-probabilities TRL divides by those of the policy itself: the ratio is 1, if they are right.
    assert "old_per_token_logps" not in seen[0]
    start = load_teacher(config.teacher)
    for (ids_BT, mask_BT, logps_BC), row in [(policies[0], row) for row in range(4)]:
        ids, C = ids_BT[row][mask_BT[row] > 0], int(mask_BT[row, -logps_BC.shape[1] :].sum())
        with torch.no_grad():
            logp_TV = start.model(ids[None]).logits[0, :-1].log_softmax(-1)
        expected = logp_TV.gather(1, ids[1:, None]).squeeze(1)[-C:]
        assert torch.allclose(logps_BC[row, :C], expected, atol=1e-4)
    prompt = torch.tensor(writer.tokenizer([groups[0][0].prompt])["input_ids"])
    with torch.no_grad():
        now, then = (model(prompt).logits[0, -1].log_softmax(-1) for model in (writer.model, start.model))
    raised = {tag: float((now - then)[writer.tokenizer.convert_tokens_to_ids(f"<{tag}>")]) for tag in TAGS}
    assert raised["permuted"] > max(raised["copy"], raised["question-answer"])
    assert raised["permuted"] > 0


def test_half_the_lessons_are_dealt_in_the_second_of_two_rounds_and_none_in_the_third(make_config, make_documents):
    config = grpo_config(make_config, rl={"explore": 1.0, "explore_rounds": 2})
    for round, dealt in ((2, range(16, 25)), (3, range(9))):
        score = Score()
        train(config, make_documents(8), score, round)
        tagged = [w.strategy != "none" for groups in score.steps for group in groups for w in group]
        assert sum(tagged) in dealt, "a random teacher tags by itself now and then"


def test_no_more_rewrites_are_in_the_model_at_once_than_the_batch_size(make_config, make_documents, monkeypatch):
    config = grpo_config(
        make_config,
        teacher={"batch_size": 32},
        reward={"documents_per_student": 8},
        rl={"group_size": 8, "rewrites_per_lesson": 5, "grpo": {"kl": 0.01}},
    )
    rows = []
    forward = LlamaForCausalLM.forward

    def spy(self, input_ids=None, **kwargs):
        rows.append(len(input_ids))
        return forward(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", spy)
    score = Score()
    train(config, make_documents(8), score)
    assert [len(group) for group in score.steps[0]] == [40] * 8
    assert rows
    assert max(rows) == 32


def spy_on_batches(monkeypatch):
    seen = []
    inner = GRPOTrainer._generate_and_score_completions

    def spy(self, inputs):
        seen.append(inner(self, inputs))
        return dict(seen[-1])

    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", spy)
    return seen


def spy_on_logps(monkeypatch):
    """Token ids, mask and the log-probabilities of the completions, as the loss sees them."""
    found = []
    inner = GRPOTrainer._get_per_token_logps_and_entropies

    def spy(self, model, input_ids, attention_mask, *args, **kwargs):
        result = inner(self, model, input_ids, attention_mask, *args, **kwargs)
        found.append((input_ids, attention_mask, result[0].detach()))
        return result

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", spy)
    return found


def test_vllm_is_trls_own_with_the_memory_that_serving_names(make_config, make_documents):
    """The settings alone: vLLM inside a trainer needs a GPU."""
    arguments = ("--gpu-memory-utilization", "0.2", "--tensor-parallel-size", "2", "--gpu-memory-utilization", "0.4")
    config = grpo_config(
        make_config, teacher={"writer": "vllm"}, serving={"arguments": arguments, "context_tokens": 1024}
    )
    given = grpo._settings(sampling_round(config, load_teacher(config.teacher)), 8, 4, Pass(16, False))
    args = GRPOConfig(output_dir="unused", **given)
    assert (args.use_vllm, args.vllm_mode, args.vllm_enable_sleep_mode) == (True, "colocate", True)
    assert (args.vllm_gpu_memory_utilization, args.vllm_tensor_parallel_size) == (0.4, 2)
    assert (args.vllm_max_model_length, args.vllm_importance_sampling_mode) == (1024, "token_truncate")
    sampling = (args.temperature, args.top_p, args.top_k, args.min_p, args.repetition_penalty, args.generation_kwargs)
    assert sampling == (config.teacher.temperature, 1.0, 0, None, 1.0, None), "our temperature and nothing else"
    assert "use_vllm" not in grpo._settings(
        sampling_round(grpo_config(make_config), load_teacher(config.teacher)), 8, 4, Pass(16, False)
    )


def test_dealt_openings_reach_the_vllm_inside_the_trainer_and_are_not_corrected(make_config):
    """A double of TRL's VLLMGeneration: what it is asked, and what becomes of what it gives."""
    asked = []

    def generate(prompts, images, num_generations):
        asked.append((prompts, images, num_generations))
        return prompts, [[7, 8, 1], [9] * 4], [[[-0.1], [-0.2], [-0.3]], [[-0.5]] * 4], None

    trainer = SimpleNamespace(use_vllm=True, vllm_generation=SimpleNamespace(generate=generate))
    found = grpo._sample_inside(trainer, [[3, 4], [5]], [[40], []], max_new_tokens=3)
    assert asked == [([[3, 4, 40], [5]], None, 1)]
    assert found["prompt_ids"] == [[3, 4], [5]]
    assert found["completion_ids"] == [[40, 7, 8], [9, 9, 9]]
    assert math.isnan(found["logprobs"][0][0]) and found["logprobs"][0][1:] == [-0.1, -0.2]
    assert found["logprobs"][1] == [-0.5] * 3

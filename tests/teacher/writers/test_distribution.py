"""What is sampled from is softmax(logits / our temperature), whatever the model's own generation config asks for."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GenerationMixin
from trl import GRPOTrainer

from configs.errors import UserError
from configs.schema import Lora, Questions, Student
from student.engine.models import load_model
from student.pools.inline import InlinePool
from student.records import Exam, Job, Lesson, Outcome, Question
from teacher.algorithms import grpo
from teacher.algorithms.algorithm import SamplingRound
from teacher.algorithms.distributed import Ranks
from teacher.questions.writer import TEMPERATURE, load_question_writer
from teacher.records import Reward
from teacher.run.checkpoints import save_checkpoint
from teacher.run.clock import Clock
from teacher.training.data import check_documents
from teacher.writers.local import load_teacher

END, OTHER_END = 1, 5
SHIPPED = {
    "do_sample": True, "temperature": 0.3, "top_k": 5, "top_p": 0.7, "min_p": 0.1, "typical_p": 0.9,
    "repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "bad_words_ids": [[7]], "suppress_tokens": [8],
    "begin_suppress_tokens": [9], "forced_eos_token_id": 1, "exponential_decay_length_penalty": [2, 1.5],
    "sequence_bias": [[[10], 5.0]], "guidance_scale": 1.5, "min_new_tokens": 4, "max_time": 1e-6,
    "stop_strings": ["wood"], "num_beams": 2, "renormalize_logits": True, "house_rule": 1,
    "eos_token_id": [OTHER_END], "pad_token_id": 3,
}  # fmt: skip
"""A generation_config.json that meddles with everything; only its end token is a fact about the model."""


@pytest.fixture
def shipped(teacher_folder, tmp_path):
    """The random teacher with that generation config, and its end token as the only one declared."""
    folder = shutil.copytree(teacher_folder, tmp_path / "shipped")
    (folder / "generation_config.json").write_text(json.dumps(SHIPPED))
    return folder


@pytest.fixture
def calls(monkeypatch):
    """For each call of `generate` its sequences (B, T), and by step the logits and the scores that were sampled from
    (B, V)."""
    seen = []
    generate = GenerationMixin.generate

    def spy(self, *args, generation_config=None, **kwargs):
        config = GenerationConfig() if generation_config is None else generation_config
        config.output_scores = config.output_logits = config.return_dict_in_generate = True
        result = generate(self, *args, generation_config=config, **kwargs)
        seen.append(SimpleNamespace(prompt=kwargs["input_ids"].shape[1], result=result))
        return result.sequences

    monkeypatch.setattr(GenerationMixin, "generate", spy)
    return seen


def difference(calls, temperature, top_p=1.0):
    """Largest |log p - log p'| between what was sampled from and the nucleus `top_p` of softmax(logits / temperature),
    over all steps and tokens; infinite where one has a token that the other has not."""
    assert calls
    worst = 0.0
    for call in calls:
        for scores_BV, logits_BV in zip(call.result.scores, call.result.logits, strict=True):
            expected_BV = (logits_BV / (temperature or 1.0)).log_softmax(-1)
            ordered_BV, order_BV = expected_BV.sort(-1, descending=True)
            before_BV = ordered_BV.exp().cumsum(-1) - ordered_BV.exp()  # probability of all likelier tokens
            outside_BV = torch.zeros_like(before_BV, dtype=torch.bool).scatter(-1, order_BV, before_BV >= top_p)
            expected_BV = expected_BV.masked_fill(outside_BV, -torch.inf).log_softmax(-1)
            found_BV = scores_BV.log_softmax(-1)
            gap_BV = (found_BV - expected_BV).abs().masked_fill(found_BV == expected_BV, 0.0)
            worst = max(worst, float(gap_BV.max()))
    return worst


def teacher_of(make_config, folder, **settings):
    return make_config(teacher={"model": str(folder), **settings})


def test_the_model_keeps_its_end_tokens_and_nothing_else_of_its_generation_config(shipped):
    model, _ = load_model(str(shipped), device="cpu")
    plain = model.generation_config
    assert plain.to_diff_dict().keys() <= {"eos_token_id", "pad_token_id", "do_sample", "transformers_version"}
    assert (plain.eos_token_id, plain.pad_token_id, plain.do_sample) == ([END, OTHER_END], 0, False)
    assert not hasattr(plain, "house_rule")


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.8, 1.0), (0.8, 0.9), (0.0, 1.0)])
@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8.0}])
def test_the_local_writer(make_config, shipped, calls, temperature, top_p, lora):
    teacher = teacher_of(make_config, shipped, temperature=temperature, top_p=top_p, lora=lora).teacher
    writer = load_teacher(teacher, train_seed=0)
    assert writer.end_ids == {END, OTHER_END}
    written = writer.write(["in the shop wood wood wood iron", "gold"], 20, seed=0)
    assert difference(calls, temperature, top_p) < 1e-5
    lengths = [len(completion.text.split()) for group in written for completion in group]
    if temperature:
        assert min(lengths) < 3 and max(lengths) >= 9, "neither a least length nor a longest time"


def test_the_local_writer_at_another_temperature(make_config, shipped, calls):
    load_teacher(teacher_of(make_config, shipped).teacher).at(0.5).write(["gold iron"], 4, seed=0)
    assert difference(calls, 0.5) < 1e-5


def test_log_probabilities_of_the_first_grpo_step_are_those_of_sampling(
    make_config, make_documents, shipped, calls, monkeypatch
):
    config = make_config(
        teacher={"model": str(shipped), "temperature": 0.8}, rl={"algorithm": "grpo", "grpo": {"kl": 0.0}}
    )
    learnt = []
    inner = GRPOTrainer._get_per_token_logps_and_entropies

    def spy(self, model, input_ids, attention_mask, *args, **kwargs):
        result = inner(self, model, input_ids, attention_mask, *args, **kwargs)
        learnt.extend(zip(input_ids, attention_mask, result[0].detach(), strict=True))
        return result

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", spy)
    writer = load_teacher(config.teacher, train_seed=config.run.seed)
    grpo.train_round(
        SamplingRound(
            config=config, number=1, writer=writer, documents=make_documents(4), gates=(), start=None, clock=Clock(),
            ranks=Ranks(),
            score=lambda _, groups: [
                [Reward(value=float(len(r.text)), outcome=Outcome(gain=0.0)) for r in group] for group in groups
            ],
        )
    )  # fmt: skip
    sampled = {}
    for call in calls:
        logps_BTV = torch.stack(call.result.scores, 1).log_softmax(-1)
        for row, ids in enumerate(call.result.sequences.tolist()):
            prompt, new = [i for i in ids[: call.prompt] if i != writer.tokenizer.pad_token_id], ids[call.prompt :]
            new = new[: next((t + 1 for t, token in enumerate(new) if token in writer.end_ids), len(new))]
            sampled[*prompt, *new] = logps_BTV[row, range(len(new)), new]
    ratios = []
    for ids, mask, logps in learnt:
        then = sampled[tuple(ids[mask > 0].tolist())]
        ratios += (logps[: len(then)] - then).exp().tolist()
    assert len(learnt) == 16 and len(ratios) > 50
    assert max(abs(ratio - 1) for ratio in ratios) < 1e-4


def test_grpo_refuses_a_cut_distribution(make_config, make_documents):
    config = make_config(teacher={"top_p": 0.9}, rl={"algorithm": "grpo"})
    with pytest.raises(UserError, match="top_p"):
        check_documents(config, make_documents(4), [])
    config = make_config(teacher={"continuations": 1}, rl={"algorithm": "grpo"})
    with pytest.raises(UserError, match="continuations: GRPO samples each rewrite in one call"):
        check_documents(config, make_documents(4), [])


def test_the_question_writer(make_config, make_documents, shipped, calls):
    config = teacher_of(make_config, shipped, top_p=0.9)
    writer = load_question_writer(Questions(model="teacher", per_document=1), config.teacher, seed=0)
    writer.write(make_documents(3))  # a random teacher writes no questions, so all attempts are made
    assert len(calls) == 3
    assert difference(calls[:1], 0.0) < 1e-5 and difference(calls[1:], TEMPERATURE) < 1e-5


def test_decoded_answers_of_students(shipped, calls):
    settings = Student(
        model=str(shipped), steps=1, decode=True, max_answer_tokens=6, lora=Lora(rank=2, alpha=4), device="cpu"
    )
    exam = Exam(questions=(Question(prompt="what is in the shop ?", answer="gold"),))
    [outcome] = InlinePool(settings).examine([Job(lesson=Lesson(texts=("gold iron",), seed=0), exam=exam)])
    assert outcome.error is None and len(calls) == 2
    assert difference(calls, 0.0) < 1e-5
    for call in calls:
        new_T = call.result.sequences[0, call.prompt :].tolist()
        assert new_T == [int(logits[0].argmax()) for logits in call.result.logits]


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8.0}])
@pytest.mark.parametrize(("evaluation", "temperature"), [(None, 0.8), (0.6, 0.6)])
def test_others_sample_from_a_checkpoint_what_a_curation_would(
    make_config, shipped, tmp_path, lora, evaluation, temperature, calls
):
    """As the card of a published teacher says: an adapter's file takes the place of its base's."""
    config = teacher_of(make_config, shipped, lora=lora, temperature=0.8, top_p=0.9, evaluation_temperature=evaluation)
    writer = load_teacher(config.teacher, train_seed=0)
    folder = save_checkpoint(tmp_path, 1, writer.model, writer.tokenizer, writer.settings, None)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    if lora:
        assert model.generation_config.repetition_penalty == 1.5, "that of the base"
        model.generation_config = GenerationConfig.from_pretrained(folder)
    inputs = tokenizer("in the shop wood wood wood", return_tensors="pt")
    torch.manual_seed(0)
    model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], num_return_sequences=8)
    theirs = calls[-1].result
    assert difference(calls, temperature, top_p=0.9) < 1e-5
    ours = load_teacher(config.teacher, folder).at(evaluation)
    ours.write(["in the shop wood wood wood"], 8, seed=0)
    assert theirs.sequences.tolist() == calls[-1].result.sequences.tolist()

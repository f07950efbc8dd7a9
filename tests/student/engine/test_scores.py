"""Answers that share their prompt's computation have the scores of separate texts, and the measures that follow."""

import random
import statistics

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from configs.schema import Lora, Student
from student.engine.encoding import encode_answer
from student.engine.exam import Examiner
from student.engine.lora import AdapterStack
from student.engine.proof import prove, proved_scorer
from student.engine.scores import Scorer
from student.records import Exam, Question
from tests.student.conftest import SHAPE, WORDS

SETTINGS = Student(lora=Lora(rank=2, alpha=4))


def random_questions(tokenizer, count, slots, *, prompt=(1, 20), answer=(1, 5)):
    rng = random.Random(0)

    def words(low, high):
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))

    questions = []
    for _ in range(count):
        start, ends = words(*prompt), dict.fromkeys(words(*answer) for _ in range(4))
        questions.append([encode_answer(tokenizer, start, end) for end in ends])
    return [(slot, texts) for slot in range(slots) for texts in questions]


def scorer_of(model, tokenizer, slots):
    stack = AdapterStack(model, SETTINGS.lora)
    scorer = Scorer(model, tokenizer, stack, SETTINGS)
    prove(scorer)
    stack.allocate(list(range(slots)))
    with torch.no_grad():
        stack.params_KP.normal_(std=0.1)
    return scorer


def one_by_one(scorer, questions, trained):
    return [[scorer.texts([(slot, text)], trained, 4096)[0] for text in texts] for slot, texts in questions]


@pytest.mark.parametrize(("trained", "max_tokens"), [(True, 4096), (True, 60), (False, 4096)])
def test_answers_that_share_a_prompt_score_as_separate_texts(any_model, tokenizer, trained, max_tokens):
    """Prompts reach beyond Gemma's sliding window of 8 tokens."""
    scorer = scorer_of(any_model, tokenizer, 3)
    questions = random_questions(tokenizer, 12, 3 if trained else 1)
    questions += [(slot, texts[:1]) for slot, texts in questions[-2:]]  # without distractors
    sizes = []
    hook = any_model.get_decoder().register_forward_pre_hook(
        lambda _, __, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    together = scorer.answers(questions, trained, max_tokens)
    assert max(sizes) <= max_tokens
    hook.remove()
    assert scorer.shares_prompts
    for ours, theirs in zip(together, one_by_one(scorer, questions, trained), strict=True):
        assert [score.tokens for score in ours] == [score.tokens for score in theirs]
        assert [score.greedy for score in ours] == [score.greedy for score in theirs]
        assert ours[0].ended == theirs[0].ended
        assert [s.loglik for s in ours] == pytest.approx([s.loglik for s in theirs], abs=1e-5)


def test_a_shared_prompt_is_computed_once(llama, tokenizer):
    scorer = scorer_of(llama, tokenizer, 4)
    questions = random_questions(tokenizer, 10, 4, prompt=(14, 18), answer=(1, 4))
    assert scorer.shares_prompts
    start = scorer.positions
    scorer.answers(questions, True, 4096)
    together = scorer.positions - start
    scorer.texts([(slot, text) for slot, texts in questions for text in texts], True, 4096)
    apart = scorer.positions - start - together
    assert apart > 2.3 * together


def test_a_family_without_such_a_cache_computes_separate_texts(tokenizer):
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=SHAPE["vocab_size"], hidden_size=32, state_size=8, num_hidden_layers=2)
    scorer, _ = proved_scorer(SETTINGS, MambaForCausalLM(config).eval(), tokenizer)
    questions = random_questions(tokenizer, 5, 1)
    texts = [(slot, text) for slot, texts in questions for text in texts]
    assert [score for scores in scorer.answers(questions, False, 4096) for score in scores] == scorer.texts(
        texts, False, 4096
    )
    assert not scorer.shares_prompts


def test_an_exam_without_distractors_is_computed_as_ever(llama, tokenizer):
    scorer = scorer_of(llama, tokenizer, 3)
    golds = [(slot, texts[0]) for slot, texts in random_questions(tokenizer, 12, 3)]
    alone = scorer.answers([(slot, [text]) for slot, text in golds], True, 4096)
    assert [score for [score] in alone] == scorer.texts(golds, True, 4096)


def test_measures_are_those_of_a_hand_computation(llama, tokenizer):
    question = Question(prompt="where did the cat sat ?", answer="on the mat", distractors=("rug", "the blue sea"))
    torch.manual_seed(1)

    def loglik(answer):
        prompt = tokenizer(question.prompt)["input_ids"]
        ids = torch.tensor(prompt + tokenizer(f" {answer}")["input_ids"])
        with torch.no_grad():
            logprobs = llama(input_ids=ids[None]).logits[0].log_softmax(-1)
        return [logprobs[i - 1, ids[i]].item() for i in range(len(prompt), len(ids))]

    gold, *wrong = (loglik(answer) for answer in (question.answer, *question.distractors))
    [grade] = Examiner(Scorer(llama, tokenizer, None, SETTINGS)).before(Exam(questions=(question,)), 4096).grades
    means = [statistics.fmean(of_answer) for of_answer in wrong]
    per_character = [sum(gold) / 10, sum(wrong[0]) / 3, sum(wrong[1]) / 12]
    assert grade.loglik == pytest.approx(statistics.fmean(gold), abs=1e-5)
    assert grade.extra["contrast"] == pytest.approx(statistics.fmean(gold) - statistics.fmean(means), abs=1e-5)
    assert grade.extra["choice"] == float(per_character[0] == max(per_character))
    assert grade.extra["choice_sum"] == float(sum(gold) > max(map(sum, wrong)))

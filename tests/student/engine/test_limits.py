"""Models at their edges: few positions, a tokenizer that does not fit, no end of a text."""

import pytest
import torch
from tokenizers import AddedToken
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from configs.errors import UserError
from configs.schema import Lora, Student
from student.engine.models import check_model, fitted_prompt, load_model, positions_of, within_positions
from student.pools.inline import InlinePool
from student.records import Exam, Job, Lesson, Question

pytestmark = pytest.mark.wild

SETTINGS = Student(lora=Lora(rank=2, alpha=4.0), steps=2, learning_rate=1e-3, device="cpu", dtype="float32")


def job(lesson, exam):
    return Job(lesson=lesson, exam=exam)


LONG = "the cat sat on the mat. " * 40


def saved(folder, tokenizer, rows, family="llama", positions=32):
    """A model folder with an embedding of so many rows."""
    torch.manual_seed(0)
    shape = {"vocab_size": rows, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    match family:
        case "gpt_neo":
            layers = {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
            del shape["num_hidden_layers"], shape["num_attention_heads"]
            model = GPTNeoForCausalLM(GPTNeoConfig(**shape, **layers, max_position_embeddings=positions))
        case "opt":
            model = OPTForCausalLM(
                OPTConfig(**shape, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=positions)
            )
        case _:
            model = LlamaForCausalLM(LlamaConfig(**shape, intermediate_size=64, max_position_embeddings=positions))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def own(tokenizer, tmp_path):
    """A tokenizer that a test may change."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


@pytest.mark.parametrize("family", ["gpt_neo", "opt", "llama"])
@pytest.mark.parametrize("decode", [False, True])
def test_long_texts_are_split_and_long_questions_cut_and_cost_no_other(own, tmp_path, family, decode, caplog):
    folder = saved(tmp_path / "model", own, len(own), family)
    pool = InlinePool(SETTINGS.model_copy(update={"model": folder, "decode": decode, "max_answer_tokens": 8}))
    short = Exam(questions=(Question(prompt="where did the cat sat?", answer="on the mat"),))
    asked = Question(prompt=LONG + "where did the cat sat?", answer="on the mat", distractors=("sea",))
    told_long = Question(prompt="where?", answer=LONG[:47], distractors=("sea",))
    long = Exam(questions=(asked, told_long))
    endless = Exam(questions=(Question(prompt="where?", answer=LONG),))
    lesson = Lesson(texts=(LONG,), seed=1)
    told = {}
    outcomes = pool.examine([job(lesson, short), job(lesson, long), job(lesson, endless)], told.update)
    assert [told[i] for i in range(3)] == outcomes
    cut, long_cut, refused = outcomes
    assert 24 < cut.metrics["longest_text"] <= 32 and cut.metrics["lesson_tokens"] > 200
    assert cut.error is None and long_cut.error is None and "its prompt is cut at the beginning" in caplog.text
    assert refused.gain is None and refused.error.startswith("an answer is longer than the model's 32 positions")
    [alone] = pool.examine([job(lesson, short)])
    assert alone.gain == pytest.approx(cut.gain, abs=1e-5)
    assert pool.gradient_alignments([job(lesson, long)])[0] is not None


def test_a_prompt_keeps_its_end(own):
    question = Question(prompt=LONG + "where did the cat sat?", answer="on the mat")
    fitted = fitted_prompt(own, question, 32)
    assert question.prompt.endswith(fitted) and fitted.endswith("mat. where did the cat sat?")
    assert 16 <= len(own(fitted)["input_ids"]) <= 29
    assert fitted_prompt(own, question, None) == fitted_prompt(own, question, 1000) == question.prompt


def test_limits_that_a_config_does_not_set_bound_nothing(own):
    assert positions_of(GPT2Config(n_positions=512)) == 512
    assert positions_of(LlamaConfig()) == 2048
    config = LlamaConfig(max_position_embeddings=-1)
    assert positions_of(config) is None and within_positions(SETTINGS, config) == SETTINGS
    assert within_positions(SETTINGS, GPT2Config(n_positions=512)).max_text_tokens == 512


def test_a_tokenizer_without_an_end_of_text_is_refused_by_name(own, tmp_path):
    own.eos_token = own.pad_token = None
    folder = saved(tmp_path / "model", own, len(own))
    for load in (load_model, lambda name: check_model("student.model", name)):
        with pytest.raises(UserError, match="names no end-of-text token") as caught:
            load(folder)
        assert folder in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["none", "beyond"])
def test_a_padding_token_that_the_model_lacks_is_the_end_of_text(own, tmp_path, kind):
    rows = len(own)
    if kind == "none":
        own.pad_token = None
    else:
        own.add_special_tokens({"pad_token": "<new pad>"})
    folder = saved(tmp_path / "model", own, rows)
    _, tokenizer = load_model(folder)
    assert tokenizer.pad_token == "<eos>" and len(tokenizer) == rows
    exam = Exam(questions=(Question(prompt="where?", answer="on the mat"),))
    jobs = [
        job(Lesson(texts=("the cat sat <new pad>", "a dog ran"), seed=1), exam),
        job(Lesson(texts=("a cat",), seed=1), exam),
    ]
    assert all(o.error is None for o in InlinePool(SETTINGS.model_copy(update={"model": folder})).examine(jobs))


def test_a_special_token_beyond_the_embedding_is_read_as_letters(own, tmp_path):
    rows = len(own)
    own.add_special_tokens({"additional_special_tokens": ["<image>"]})
    folder = saved(tmp_path / "model", own, rows)
    check_model("student.model", folder)
    _, tokenizer = load_model(folder)
    assert max(tokenizer("the <image> cat")["input_ids"]) < rows
    assert tokenizer("the cat")["input_ids"] == own("the cat")["input_ids"]


def test_a_tokenizer_of_another_model_is_refused_by_name(own, tmp_path):
    rows = len(own)
    own.add_tokens([AddedToken("<copy>", special=False)])
    folder = saved(tmp_path / "model", own, rows)
    for load in (load_model, lambda name: check_model("student.model", name)):
        with pytest.raises(
            UserError, match=r"has 1 tokens beyond the \d+ rows of its embedding \('<copy>' is the first"
        ):
            load(folder)
    smaller = saved(tmp_path / "smaller", own, rows - 20)
    with pytest.raises(UserError, match="another model's"):
        load_model(smaller)


def test_an_embedding_larger_than_the_vocabulary_is_padding(own, tmp_path):
    folder = saved(tmp_path / "model", own, len(own) + 40)
    check_model("student.model", folder)
    exam = Exam(questions=(Question(prompt="where?", answer="on the mat"),))
    [outcome] = InlinePool(SETTINGS.model_copy(update={"model": folder})).examine(
        [job(Lesson(texts=("a cat",), seed=1), exam)]
    )
    assert outcome.error is None

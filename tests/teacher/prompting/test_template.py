"""Chat templates as the wild has them: a prompt holds the document once and whole, ends where the model is to write,
and is the same tomorrow."""

import pytest
from datatrove.data import Document
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from configs.errors import UserError
from configs.schema import Serving, Teacher
from student.engine.encoding import encode_answer, encode_text, prompt_ids
from teacher.prompting import template
from teacher.prompting.defence import control_tokens
from teacher.prompting.prompts import build_prompt
from teacher.prompting.template import PROBE, check_prompts, load_tokenizer

pytestmark = pytest.mark.wild

TURNS = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
OPENED = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CHATML = TURNS + OPENED
PARTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'text' %}"
    "{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}{{ '<|im_start|>assistant\n' }}"
)
DATED = "{% set d = strftime_now('%d %b %Y') %}<|im_start|>system\nToday is {{ d }}<|im_end|>\n" + CHATML
NEEDS_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ raise_exception('A system message is required') }}{% endif %}"
)


def make(chat_template=None, bos=None, eos="<|endoftext|>", post=None):
    special = ["<|im_start|>", "<|im_end|>", "<pad>", "<|endoftext|>", "<s>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        [PROBE], trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=eos, pad_token="<pad>", **({"bos_token": bos} if bos else {})
    )
    if post:
        ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in special]
        core = tokenizer.backend_tokenizer
        core.post_processor = processors.TemplateProcessing(single=post, special_tokens=ids)
    tokenizer.chat_template = chat_template
    return tokenizer


def prompt_of(tokenizer, text="SECRET TEXT about herring", **settings):
    return build_prompt(tokenizer, Teacher(**settings), Document(text, "1"), "rewrite", 900)


@pytest.mark.parametrize(
    ("chat_template", "tail"),
    [
        (CHATML, "<|im_start|>assistant\n"),
        (PARTS, "<|im_start|>assistant\n"),
        (DATED, "<|im_start|>assistant\n"),
        ({"default": CHATML, "tool_use": "no"}, "<|im_start|>assistant\n"),
        (CHATML.replace("assistant\n", "assistant\n<think>\n"), "<think>\n"),
        # Mistral's has no switch for the model's turn, DialoGPT's ends each turn with the end of text.
        ("{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}"
         "{{ eos_token }}{% endif %}{% endfor %}", "[/INST]"),
        ("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", "<|endoftext|>"),
        # gpt-oss: the model names its channel itself.
        ("{% for m in messages %}<|im_start|>{{ m.role }}{% if m.role != 'user' %}<|channel|>final{% endif %}"
         "<|message|>{{ m.content }}<|im_end|>{% endfor %}"
         "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}",
         "assistant"),
        # One that refuses a system turn, and one that takes a single turn.
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML, "assistant\n"),
        ("USER {{ messages[0].content }} TEACHER", "TEACHER"),
    ],
    ids=["chatml", "parts", "dated", "named", "thinks", "mistral", "dialogpt", "gpt-oss", "no system", "one turn"],
)  # fmt: skip
def test_a_prompt_holds_the_document_once_and_ends_where_the_model_writes(chat_template, tail):
    tokenizer = make(chat_template)
    check_prompts(tokenizer, "it")
    prompt = prompt_of(tokenizer)
    assert prompt.count("SECRET TEXT about herring") == 1 and prompt.endswith(tail)
    assert {"<|im_start|>", "<|im_end|>"} <= set(control_tokens(tokenizer))


@pytest.mark.parametrize(
    ("chat_template", "message"),
    [
        ("<|im_start|>user\n<|im_end|>\n" + OPENED, "drops the document"),
        (CHATML.replace("m['content']", "m['content'][:100]"), "changes the document"),
        (CHATML.replace("m['content']", "m['content'] | upper"), "drops the document"),
        (CHATML.replace("m['content']", "m['content'] | e"), "the document"),
        (CHATML.replace("m['content']", "m['content'].split()[0:600] | join(' ')"), "changes the document"),
        (CHATML + "{{ messages[0]['content'] }}", "shows the document twice"),
        (TURNS, "'<|im_start|>assistant' is missing"),
        ("{{ messages[0].content }}<|endoftext|>", "it ends in <|endoftext|>"),
        (
            NEEDS_SYSTEM.replace("!= 'system'", "!= 'tool'") + CHATML,
            "makes no prompt of a user's turn: A system message",
        ),
        (NEEDS_SYSTEM + "<|im_start|>" + OPENED, "makes no prompt of a user's turn: A system message is required"),
        ("{% if messages | length % 2 == 0 %}{{ raise_exception('even') }}{% endif %}" + CHATML * 2, "twice"),
        ({"rag": CHATML, "tool_use": CHATML}, "makes no prompt of a user's turn"),
        ("{{ messages[0].content", "makes no prompt of a user's turn"),
        ("{{ messages[0].content }}{{ 1 / 0 }}", "makes no prompt of a user's turn: division by zero"),
        ("{{ messages[0].content.nothing.at_all }}", "makes no prompt of a user's turn"),
        (CHATML + "{{ range(1000) | random }}", "another prompt each time"),
        ("", "drops"),
    ],
    ids=range(17),
)
def test_a_template_that_cannot_be_used_is_refused_in_one_line(chat_template, message):
    if not chat_template:
        chat_template = "{{ bos_token }}"
    with pytest.raises(UserError) as caught:
        check_prompts(make(chat_template), "it")
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith("the chat template of it ")


@pytest.mark.parametrize(
    ("chat_template", "tail"),
    [
        (NEEDS_SYSTEM + CHATML, "<|im_start|>assistant\n"),
        (NEEDS_SYSTEM + PARTS, "<|im_start|>assistant\n"),
        # The first turn is taken for the system's, and not shown.
        (CHATML.replace("in messages", "in messages[1:]"), "<|im_start|>assistant\n"),
        ("<<SYS>>{{ messages[0].content }}<</SYS>>[INST] {{ messages[1].content }} [/INST]", "[/INST]"),
        ("{% if messages[0].role != 'system' or messages[1].role != 'user' or messages | length > 2 %}"
         "{{ raise_exception('system and user') }}{% endif %}" + CHATML, "<|im_start|>assistant\n"),
    ],
    ids=["raises", "parts", "skips", "llama", "one turn"],
)  # fmt: skip
def test_a_template_that_needs_a_system_turn_gets_a_neutral_one(chat_template, tail):
    tokenizer = make(chat_template)
    check_prompts(tokenizer, "it")
    prompt = prompt_of(tokenizer)
    assert prompt.count("SECRET TEXT about herring") == 1 and prompt.endswith(tail)
    assert prompt.count(template.SYSTEM) == ("messages[1:]" not in chat_template)
    # One that needs none gets none.
    assert template.SYSTEM not in prompt_of(make(CHATML))


def test_a_prompt_is_the_same_after_midnight(monkeypatch):
    tokenizer = make(DATED)
    today = prompt_of(tokenizer)
    assert "Today is 26 Jul 2024" in today

    class Tomorrow(template.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 1, 1)

    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    assert prompt_of(make(DATED)) == today
    plain = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert "Today is 01 Jan 2031" in plain, "the clock of the library was not the one that was set"


@pytest.mark.parametrize(
    ("bos", "post", "opening"),
    [
        (None, None, []),
        (None, "$A <|endoftext|>", []),
        ("<s>", "<s> $A", ["<s>"]),
        ("<s>", "<s> $A <|endoftext|>", ["<s>"]),
        ("<|endoftext|>", "$A <|endoftext|>", []),
        ("<|endoftext|>", "<|endoftext|> $A", ["<|endoftext|>"]),
        ("<|endoftext|>", "<|endoftext|> $A <|endoftext|>", ["<|endoftext|>"]),
        (None, "<s> $A <pad>", ["<s>"]),
    ],
)
@pytest.mark.parametrize("chat_template", [None, CHATML, "{{ bos_token }}" + CHATML])
def test_no_prompt_ends_in_what_the_tokenizer_puts_after_a_text(bos, post, opening, chat_template):
    tokenizer = make(chat_template, bos, post=post)
    prompt = prompt_of(tokenizer)
    [ids] = prompt_ids(tokenizer, [prompt])
    head = opening or ([bos] if bos and chat_template and chat_template.startswith("{{ bos") else [])
    assert tokenizer.convert_ids_to_tokens(ids[: len(head)]) == head
    rest = prompt.removeprefix(head[0]) if head and prompt.startswith(head[0]) else prompt
    assert ids[len(head) :] == tokenizer(rest, add_special_tokens=False)["input_ids"]
    # A student's texts and exams begin alike, and its texts end in one end-of-text token.
    whole = tokenizer("gold", add_special_tokens=False)["input_ids"]
    before = tokenizer.convert_tokens_to_ids(opening)
    assert encode_text(tokenizer, "gold", "all", 99)[0].ids.tolist() == [*before, *whole, tokenizer.eos_token_id]
    assert encode_answer(tokenizer, "", "gold").ids.tolist() == [*before, *whole]


def test_a_tokenizer_without_offsets_is_refused_before_a_prompt_is_made(tmp_path):
    ByT5Tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"ByT5Tokenizer .*gives no offsets"):
        load_tokenizer(Teacher(), Serving(), str(tmp_path))


def test_an_endpoint_that_has_the_template_needs_none_of_ours(tmp_path):
    make("{{ raise_exception('no') }}").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="makes no prompt"):
        load_tokenizer(Teacher(writer="endpoint"), Serving(), str(tmp_path))
    tokenizer = load_tokenizer(Teacher(writer="endpoint"), Serving(chat=True), str(tmp_path))
    assert "SECRET TEXT" in prompt_of(tokenizer)

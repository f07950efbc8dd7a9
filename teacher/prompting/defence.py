import hashlib
import itertools
import re
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

MARKER = re.compile(r"\bpassage-[0-9a-f]{6,}")
"""What markers look like, whole or in part."""


CHAT_MARK = re.compile(
    r"<\|[^|<>\n]{1,40}\|>|</?(?:s|bos|eos|start_of_turn|end_of_turn|think|tool_call|tool_response)>|\[/?INST\]|<</?SYS>>",
    re.IGNORECASE,
)
"""What begins and ends a turn in the usual chat templates. Some spell it in plain letters, which their tokenizers do
not know for control tokens (`[INST]`)."""


_TAG_CHARACTERS = dict.fromkeys(range(0xE0000, 0xE0080))


def markers(text: str) -> tuple[str, str]:
    """The two lines between which a document's text stands in the prompt, with a code that is nowhere in it.

    The code is a hash of the whole text: whoever writes it into the text has another text, and so another code. What
    chance or 2^64 attempts could still hit upon is left out by construction: a code that occurs is not used. That needs
    no secret to keep, to lose or to publish by mistake; and since the same text always has the same markers, training,
    curation and a resumed run meet the same prompts.
    """
    for attempt in itertools.count():
        code = hashlib.sha256(f"{attempt}\n{text}".encode(errors="surrogatepass")).hexdigest()[:16]
        if code not in text.lower():
            return f"<passage-{code}>", f"</passage-{code}>"
    raise AssertionError("a text holds finitely many codes")


@lru_cache(maxsize=8)
def control_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Texts that are read as control tokens, longest first: special tokens, and those of the chat template."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special.update(str(token) for token in tokenizer.all_special_tokens)
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    special.update(token for token in tokenizer.get_added_vocab() if token in template)
    special.add(LESSON_TOKEN)
    return tuple(sorted((token for token in special if len(token) > 1), key=len, reverse=True))


def neutralise(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """`text` with a space in every control token, so that it is read as the characters it is.

    For an instruction model also in what other models' chat templates use; and invisible tag characters, which spell
    out text that no reader sees, are taken out.
    """
    chat = bool(tokenizer.chat_template)
    if chat:
        text = CHAT_MARK.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", text.translate(_TAG_CHARACTERS))
    for token in control_tokens(tokenizer):
        if token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return _unread(tokenizer, text) if chat else text


def _unread(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """`text` without what is still read as a control token: a tokenizer that normalises its input reads full-width
    letters as plain ones, and drops characters without width."""
    control = _control_ids(tokenizer)
    while True:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        read = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        found = [(start, end) for token, (start, end) in read if token in control and end - start > 1]
        if not found:
            return text
        for start, end in reversed(found):
            # Shorter than it was, so that this ends.
            text = f"{text[:start]} {text[end:]}"


@lru_cache(maxsize=8)
def _control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The unknown token is none: any strange word is read as that."""
    ids = tokenizer.convert_tokens_to_ids(list(control_tokens(tokenizer)))
    return frozenset(ids) - {None, tokenizer.unk_token_id}


LESSON_TOKEN = "<lesson>"
"""Ends the prompt of a `policy` teacher without a chat template; its completion starts with a tag `<strategy-name>`."""

"""Keeps a document's text from being read as an instruction or a control token: markers around it, spaces in tokens."""

import hashlib
import itertools
import re
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

LESSON_TOKEN = "<lesson>"
"""Ends the prompt of a `policy` teacher without a chat template; its completion starts with a tag `<strategy-name>`."""
MARKER = re.compile(r"\bpassage-[0-9a-f]{6,}")
"""A marker's code, whole or in part."""
CHAT_MARK = re.compile(
    r"<\|[^|<>\n]{1,40}\|>|</?(?:s|bos|eos|start_of_turn|end_of_turn|think|tool_call|tool_response)>|\[/?INST\]|<</?SYS>>",
    re.IGNORECASE,
)
"""What begins and ends a turn in the usual chat templates. Some of it is in plain letters (`[INST]`), which their
tokenizers do not know as control tokens."""
_TAG_CHARACTERS = dict.fromkeys(range(0xE0000, 0xE0080))


def markers(text: str) -> tuple[str, str]:
    """The two lines between which a document's text stands in the prompt, with a code that is nowhere in it.

    The code is a hash of the whole text: whoever writes it into the text has another text, and so another code. A code
    that occurs in the text all the same is not used, so chance and 2^64 attempts are of no help. No secret has to be
    kept. The same text always has the same markers, so training, curation and a resumed run see the same prompts.
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
    # A tokenizer may have several templates by name.
    template = str(tokenizer.chat_template or "")
    special.update(token for token in tokenizer.get_added_vocab() if token in template)
    special.add(LESSON_TOKEN)
    return tuple(sorted((token for token in special if len(token) > 1), key=len, reverse=True))


def neutralise(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """`text` with a space in every control token, so that it is read as the characters it is. For an instruction model
    the marks of other models' chat templates get a space too, and invisible tag characters, which spell out text that
    no reader sees, are removed."""
    if tokenizer.chat_template:
        text = CHAT_MARK.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", text.translate(_TAG_CHARACTERS))
    for token in control_tokens(tokenizer):
        if token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    if not tokenizer.chat_template:
        return text
    # A tokenizer that normalises its input reads full-width letters as plain ones and drops characters without width,
    # so it may still read a control token where the text does not hold its letters.
    control = _control_ids(tokenizer)
    while True:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        tokens = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        spans = [(start, end) for token, (start, end) in tokens if token in control and end - start > 1]
        if not spans:
            return text
        for start, end in reversed(spans):
            # A space takes the token's place, so the text gets shorter and the loop ends.
            text = f"{text[:start]} {text[end:]}"


@lru_cache(maxsize=8)
def _control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    ids = tokenizer.convert_tokens_to_ids(list(control_tokens(tokenizer)))
    # Any strange word is read as the unknown token, which controls nothing.
    return frozenset(ids) - {None, tokenizer.unk_token_id}

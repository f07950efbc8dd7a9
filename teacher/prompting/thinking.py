"""What a model thinks before it writes is no part of what it writes."""

import re


def without_thinking(completion: str, tags: tuple[str, str] | None, prompt: str = "") -> str:
    """A completion without the thinking at its beginning, between `tags` (None takes nothing off); a tag of a strategy
    may stand before it. Thinking that has no end has no text after it: the completion was cut, or broke off.

    Templates of models that always think put the opening tag into the prompt, so that a completion may begin inside a
    block: it does where the `prompt` ends in that tag, and where a closing tag without an opening one begins or ends a
    line. In the middle of a line it is a text that speaks of the tag.
    """
    if tags is None:
        return completion
    opening, closing = tags
    before, mark, after = completion.partition(opening)
    # Letters before the tag are a text that speaks of it, unless they are a strategy's tag.
    if mark and re.fullmatch(r"\s*(<[^<>\n]{1,80}>\s*)?", before):
        return before + after.partition(closing)[2].lstrip()
    thought, ended, rest = completion.partition(closing)
    bounds_line = thought.endswith("\n") or not rest.strip(" ") or rest.lstrip(" ").startswith("\n")
    if prompt.rstrip().endswith(opening) or (ended and opening not in thought and bounds_line):
        return rest.lstrip()
    return completion

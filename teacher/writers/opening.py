"""How a policy's completion opens: with one of the tags, and with nothing behind the tag of a ready text."""

import re
from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, StoppingCriteria

from configs.errors import UserError
from teacher.records import Writer


def check_tags(writer: Writer) -> None:
    """Raises UserError where the teacher is to choose among tags that its tokenizer cannot write, so that it could not
    tell one from another."""
    for tag in writer.tags:
        read = writer.tokenizer.decode(writer.opening_ids(tag), skip_special_tokens=True)
        if str(read).strip() != tag:
            raise UserError(
                f"teacher.strategies: the tokenizer of {writer.settings.model} reads the tag {tag} as {read!r}: a"
                " teacher without a chat template chooses among tags that it knows"
            )


class TagChoice(LogitsProcessor):
    """Leaves each row only tokens that go on with one of the tags, until a tag is whole."""

    def __init__(self, tag_ids: Sequence[Sequence[int]], start: int, rows: Sequence[bool]) -> None:
        """`tag_ids` are the tokens of each tag, `start` is where completions begin, `rows` says which ones are held to
        a tag: one that has an opening is not."""
        self.tag_ids, self.start, self.rows = tag_ids, start, rows

    def __call__(self, ids_BT: torch.LongTensor, scores_BV: torch.FloatTensor) -> torch.FloatTensor:
        step = ids_BT.shape[1] - self.start
        open_tags = [tag for tag in self.tag_ids if len(tag) > step]
        for row in range(len(ids_BT)) if open_tags else ():
            written = ids_BT[row, self.start :].tolist()
            allowed = sorted({tag[step] for tag in open_tags if list(tag[:step]) == written})
            if self.rows[row] and allowed:
                kept = scores_BV[row, allowed].clone()
                scores_BV[row] = -torch.inf
                scores_BV[row, allowed] = kept
        return scores_BV


class AfterTag(StoppingCriteria):
    """Ends a row behind the tag of a ready text."""

    def __init__(self, tag_ids: Sequence[Sequence[int]], start: int, rows: Sequence[bool]) -> None:
        self.tag_ids, self.start, self.rows = tag_ids, start, rows

    def __call__(self, ids_BT: torch.LongTensor, scores: torch.FloatTensor, **_: object) -> torch.BoolTensor:
        new_BT = ids_BT[:, self.start :].tolist()
        done = [held and new in map(list, self.tag_ids) for held, new in zip(self.rows, new_BT, strict=True)]
        return torch.tensor(done, device=ids_BT.device)  # type: ignore[return-value]


def completion_pattern(tags: Sequence[str], stops: Sequence[str]) -> str:
    """A regular expression of completions that open with one of the tags, and end behind one of `stops`."""
    ready = [re.escape(tag) for tag in tags if tag in stops]
    written = [re.escape(tag) for tag in tags if tag not in stops]
    return "|".join([*ready, *([f"({'|'.join(written)})[\\s\\S]*"] if written else [])])

"""Rewriting strategies: text files with a `{document}` placeholder, and the tags by which a policy teacher names them.

Those that come with the project are in `teacher/strategies/`; a user's own are paths of `.txt` files.
"""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from configs.errors import UserError, nearest

FOLDER = Path(__file__).parents[1] / "strategies"
NO_STRATEGY = "none"
"""Strategy of a completion that opens with no known tag."""
_TAG = re.compile(r"\s*<([^<>\n]{1,80})>\s*")


def strategy_names() -> list[str]:
    """The strategies that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


@lru_cache
def read_strategy(name: str, key: str = "teacher.strategies") -> str:
    """The instruction with its `{document}` placeholder. Raises UserError for an unknown name, which stands in the
    config under `key`, or a file without one."""
    path = Path(name) if name.endswith(".txt") else FOLDER / f"{name}.txt"
    if not path.is_file():
        advice = "no such file" if name.endswith(".txt") else nearest(name, strategy_names())
        raise UserError(f"{key}: unknown strategy {name!r}: {advice}")
    template = path.read_text(encoding="utf-8").strip()
    if "{document}" not in template:
        raise UserError(f"strategy file {path} holds no {{document}} placeholder")
    return template


def strategy_label(name: str) -> str:
    """The name under which a strategy is logged: a file's stem."""
    return Path(name).stem if name.endswith(".txt") else name


def tag_of(name: str) -> str:
    """The tag with which a `policy` teacher opens a completion of this strategy."""
    return f"<{strategy_label(name)}>"


def menu(names: Sequence[str]) -> str:
    """One line for each strategy: its tag, and its instruction without the document. Raises UserError where two have
    one tag."""
    twice = [tag for tag, count in Counter(tag_of(name) for name in names).items() if count > 1]
    if twice:
        raise UserError(f"teacher.strategies: two strategies have the tag {twice[0]}: rename one of their files")
    lines = []
    for name in names:
        template = read_strategy(name)
        before = itertools.takewhile(lambda paragraph: "{document}" not in paragraph, template.split("\n\n"))
        instruction = " ".join(before) or template.replace("{document}", "the passage")
        lines.append(f"{tag_of(name)} {' '.join(instruction.split())}")
    return "\n".join(lines)


def spread(strategies: Sequence[str], n: int, offset: int = 0) -> list[str]:
    """`n` strategies, each as often as any other give or take one; `offset` rotates which come first."""
    return [strategies[(offset + j) % len(strategies)] for j in range(n)]


def parse_completion(prompting: str, completion: str, known: Sequence[str]) -> tuple[str, str]:
    """The strategy and the lesson text of a completion. Under `strategy` prompting the strategy is the prompt's,
    `known[0]`. Under `policy` it is the tag that opens the completion, or `none` where that names none of `known`; the
    text is then the whole completion."""
    if prompting == "strategy":
        return strategy_label(known[0]), completion.strip()
    tag = _TAG.match(completion)
    if tag and tag[1] in map(strategy_label, known):
        return tag[1], completion[tag.end() :].strip()
    return NO_STRATEGY, completion.strip()

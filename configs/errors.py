"""The two errors that a user is meant to see, and the exit codes they become.

`UserError` (exit 2): the call or the config is wrong, and nothing was started.
`RunError` (exit 1): the run failed on the way; the message says what is kept and how to go on.
Everything else is a defect of ours and keeps its traceback.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class UserError(ValueError):
    """The call or the config is wrong. One line: what, where, nearest valid name."""


class RunError(RuntimeError):
    """The run failed. One line: what failed, what is kept, how to resume."""


def nearest(name: str, valid: list[str], too_many: str = "") -> str:
    """What helps after a misspelt name: `did you mean 'rank'?`, or the valid names, or `too_many` for over 20."""
    if close := get_close_matches(name, valid, n=1, cutoff=0.5):
        return f"did you mean {close[0]!r}?"
    return too_many if too_many and len(valid) > 20 else f"valid: {', '.join(sorted(valid))}"


def check_known(kind: str, names: Iterable[str], valid: Sequence[str]) -> None:
    """Raises UserError for the first of `names` that is not valid: `unknown credit 'shred': did you mean 'shared'?`."""
    for name in names:
        if name not in valid:
            raise UserError(f"unknown {kind} {name!r}: {nearest(name, list(valid))}")

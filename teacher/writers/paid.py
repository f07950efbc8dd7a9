"""Replies of an endpoint that were paid for: on disk from when they come, so that a batch that breaks off (no money
left, a kill) asks for none of them again."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.errors import RunError
from configs.files import append_whole, drop_torn_line, read_json_lines
from teacher.records import Completion


class PaidReplies:
    """The completions of one batch at a time, in a file named by a hash of what is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path: Path | None = None

    def of(self, asked: Sequence[Any]) -> dict[int, Completion]:
        """The completions of a batch that are here, by number. What came before it is finished, and its file goes.
        Raises RunError."""
        path = self.folder / f"{hashlib.sha256(repr(asked).encode(errors='replace')).hexdigest()[:32]}.jsonl"
        try:
            if self._path is not None and self._path != path:
                self._path.unlink(missing_ok=True)
            self._path = path
            self.folder.mkdir(parents=True, exist_ok=True)
            if path.exists():
                drop_torn_line(path)
            return {
                row["number"]: Completion(row["text"], row["ended"], continuations=row["continuations"])
                for row in read_json_lines(path)
            }
        except OSError as error:
            raise RunError(f"cannot keep replies in {self.folder}: {error.strerror}") from None

    def add(self, number: int, completion: Completion) -> None:
        """Keeps a completion of the batch. Raises RunError."""
        assert self._path is not None, "`of` names the batch"
        row = {"number": number, "text": completion.text, "ended": completion.ended}
        row["continuations"] = completion.continuations
        append_whole(self._path, json.dumps(row).encode() + b"\n", sync=False)

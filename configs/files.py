"""Files that appear complete or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes `path` beside its place and renames it there: after a kill it is as it was, or complete, never half.

    Raises OSError as the system does, with nothing left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)

"""What is compared and how, written before anything is measured and kept with the run."""

import json
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.files import write_json
from configs.load import differences

DESIGN_FILE = "design.json"


def fix_design(folder: Path, design: dict[str, Any], *, begun: bool) -> None:
    """Writes the design with how it is analysed or, where students have been measured under one, holds it against that.
    Raises UserError where they differ."""
    path = folder / DESIGN_FILE
    design = json.loads(json.dumps(design))
    if begun and path.is_file():
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(f"{path} cannot be read; name another run.dir") from None
        changed = [f"{key}: {old!r} -> {new!r}" for key, old, new in differences(earlier, design)]
        if changed:
            raise UserError(
                f"{folder} was begun with another design ({'; '.join(changed[:3])}); name another run.dir to measure"
                " this one"
            )
        return
    write_json(path, design)

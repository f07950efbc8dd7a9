"""What a training that was killed goes on from: its last state and its best one, each a file that is whole or not."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from configs.errors import RunError
from curation.console.progress import say


class States:
    """States of one training in `folder`, by the step at which they were taken. `call` names all that the training
    depends on: states of another one are of no use, and are removed."""

    def __init__(self, folder: Path, call: str):
        self.folder, self.call = folder, call

    def latest(self) -> dict[str, Any] | None:
        """The last state that was kept; None, and a line that says why, where there is none that fits."""
        for path in sorted(self.folder.glob("step-*.pt"), reverse=True):
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
            except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
                say(f"{path} cannot be read ({str(error).splitlines()[0]}): it is left out")
                continue
            if state["call"] == self.call:
                return state  # type: ignore[no-any-return]
            say(f"{self.folder} is of a call with other settings, data or code: this one starts anew")
            break
        for path in self.folder.glob("*.pt"):
            path.unlink()
        return None

    def keep(self, step: int, state: dict[str, Any], best_step: int) -> None:
        """Keeps the state of a step, beside that of the best step, and drops all others. Raises RunError."""
        path, best = self._path(step), self._path(best_step)
        partial = path.with_name(f".{path.name}")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.save({"call": self.call, **state}, partial)
            os.replace(partial, path)
        except (OSError, RuntimeError) as error:  # torch.save writes on its own: a full disk is a RuntimeError
            partial.unlink(missing_ok=True)
            advice = "what was kept before is still there, and the same command goes on from it"
            raise RunError(f"cannot write {path}: {error}; {advice}") from error
        for other in self.folder.glob("step-*.pt"):
            if other not in (path, best):
                other.unlink()

    def weights(self, step: int) -> dict[str, torch.Tensor]:
        """The model's weights at a step whose state is kept."""
        state = torch.load(self._path(step), map_location="cpu", weights_only=True)
        return state["training"]["weights"]  # type: ignore[no-any-return]

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:07d}.pt"

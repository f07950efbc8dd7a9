"""Metrics go to journal/metrics.jsonl always, and to Weights & Biases where the config says so."""

import uuid
from collections.abc import Mapping
from typing import Any

from configs.errors import UserError
from configs.files import write_whole
from configs.schema import Config
from teacher.run.journal import Journal


class Tracker:
    """Writes metrics.jsonl and mirrors each new line to wandb. `disabled` never imports wandb."""

    def __init__(self, config: Config, journal: Journal) -> None:
        tracking, self.journal, self._run = config.tracking, journal, None
        if tracking.wandb == "disabled":
            return
        try:
            import wandb
        except ImportError:
            raise UserError(
                f"tracking.wandb is {tracking.wandb!r} but wandb is not installed: pip install 'notewright[wandb]'"
            ) from None
        # The id is kept, so that a resumed run goes on under it.
        id_file = journal.dir / "wandb-id"
        if not id_file.is_file():
            write_whole(id_file, uuid.uuid4().hex[:8])
        try:
            self._run = wandb.init(
                project=tracking.project,
                name=config.run.dir.name,
                id=id_file.read_text().strip(),
                resume="allow",
                mode=tracking.wandb,
                dir=config.run.dir,
                config=config.model_dump(mode="json"),
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.errors.Error as error:
            advice = "`wandb login`, or tracking.wandb=offline"
            raise UserError(f"tracking.wandb {tracking.wandb!r}: {str(error).splitlines()[0]} ({advice})") from None

    def log(self, kind: str, round: int, values: Mapping[str, Any], *, step: int | None = None, arm: str | None = None):
        """One line of `kind` (step, heldout, update). A line that a resumed run repeats is dropped, in wandb too. In
        wandb a step's metrics have the names of metrics.jsonl; names of other kinds begin with `kind/` or
        `kind/arm/`."""
        steps = {} if step is None else {"step": step}
        place = {"round": round, **steps, **({} if arm is None else {"arm": arm})}
        if self.journal.metric({"kind": kind, **place, **values}) and self._run is not None:
            prefix = "" if kind == "step" else f"{kind}/{arm}/" if arm else f"{kind}/"
            numbers = {f"{prefix}{name}": value for name, value in values.items() if isinstance(value, int | float)}
            self._run.log({"round": round, **steps, **numbers})

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if kind is None else 1)

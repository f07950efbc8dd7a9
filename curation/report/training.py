"""What a training run's journal says, in words: verdicts and key figures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from configs.files import Record, read_json_lines
from configs.format import amount
from configs.load import load_config
from configs.schema import Config
from curation.report.parts import Tile, Verdict, number, slug
from curation.report.plots import Interval, spoken
from teacher.reward.assignment import batches_of

ARMS = {
    "raw": "the documents themselves",
    "untrained": "the untrained teacher's lessons",
    "trained": "the trained teacher's lessons",
}
GAIN = "gain (nats a token)"


class Training(NamedTuple):
    """A journal as it is read. `label` tells several of one page apart."""

    config: Config
    metrics: Sequence[Record]
    rewrites: Sequence[Record]
    folder: Path = Path()
    label: str = ""

    def id(self, name: str) -> str:
        """`name` as an id that no other training of the page has."""
        return f"{slug(self.label)}-{name}" if self.label else name

    def kind(self, kind: str) -> list[Record]:
        """The lines of one kind, in the order of their rounds (a fork may count its steps otherwise)."""
        return sorted((line for line in self.metrics if line["kind"] == kind), key=place)

    @property
    def heldout(self) -> dict[str, Record]:
        found = {line["arm"]: line for line in self.metrics if line["kind"] == "heldout"}
        return {arm: found[arm] for arm in ARMS if arm in found}

    def drawn(self, documents: int) -> str:
        """What an interval over so many documents draws."""
        batches = self._batches(documents)
        if batches == documents:
            return amount(documents, "document")
        return f"{amount(batches, 'batch')} of documents that share students ({amount(documents, 'document')})"

    def bounds(self, mark: str, documents: int) -> str:
        """A caption's sentence about its intervals, drawn as `mark`."""
        if self._batches(documents) < 2:
            return f"No interval: {amount(documents, 'document')} in one batch make none possible."
        return f"{mark}: 95% intervals over {self.drawn(documents)}."

    def _batches(self, documents: int) -> int:
        return len(batches_of(documents, self.config.reward.documents_together))


def read_training(run_dir: Path, label: str = "") -> Training | None:
    """The run's training; None where it has not begun. Raises UserError for a config that cannot be read."""
    metrics = read_json_lines(run_dir / "journal" / "metrics.jsonl")
    if not metrics:
        return None
    rewrites = read_json_lines(run_dir / "journal" / "rewrites.jsonl")
    return Training(load_config(run_dir / "config.yaml"), metrics, rewrites, run_dir, label)


def place(line: Record) -> tuple[int, int]:
    """Round and step of a line."""
    return line["round"], line.get("step") or 0


def interval(line: Mapping[str, Any], name: str) -> Interval | None:
    """The figure of a line; bounds are None where one batch made none possible."""
    mean, low, high = (line.get(f"{name}/{part}") for part in ("mean", "low", "high"))
    if mean is None or not math.isfinite(mean):
        return None
    bounded = low is not None and high is not None and math.isfinite(low) and math.isfinite(high)
    return (mean, low, high) if bounded else (mean, None, None)


def verdicts(run: Training) -> list[Verdict]:
    """What the held-out documents say, in words; an interval that holds zero is no difference."""
    found = []
    difference = next(iter(run.kind("difference")), {})
    for other, name in (("untrained", "from the untrained teacher's"), ("raw", "from the raw documents")):
        value = interval(difference, f"trained_minus_{other}")
        if value is None:
            continue
        mean, low, high = value
        if low is None or high is None:
            words = (
                f"Trained teacher minus {other}: {number(mean, 2, '+')} nats a token, from too few batches of students"
            )
            found.append(Verdict(f"{words} for an interval.", "note"))
            continue
        figures = f"{number(mean, 2, '+')} nats a token, 95% interval [{number(low, 2, '+')}, {number(high, 2, '+')}]"
        if low <= 0 <= high:
            words = f"No detectable difference: what students gain from the trained teacher's lessons and {name}"
            found.append(Verdict(f"{words}, {figures}.", "same"))
        else:
            more, kind = ("more", "better") if low > 0 else ("less", "worse")
            words = f"Students gain {more} from the trained teacher's lessons than {name}"
            found.append(Verdict(f"{words}: {figures}.", kind))  # type: ignore[arg-type]
    if found:
        n = run.heldout.get("trained", {}).get("documents", 0)
        words = f"Paired by document; {run.drawn(n)}; questions that were never rewarded."
        found.append(Verdict(words, "note"))
    elif not run.label:
        found.append(Verdict("Nothing was compared on held-out documents: set data.heldout.", "note"))
    if best_validated(run) == 0 and run.kind("step"):
        words = "No round beat the untrained teacher on the validation documents: it is the one to use."
        found.insert(0, Verdict(words, "note"))
    return found


def best_validated(run: Training) -> int | None:
    """The round that validated best by what is rewarded, the earliest of equals; 0 is the untrained teacher."""
    found = [(line.get("reward/mean", line.get("gain/mean")), line["round"]) for line in run.kind("validation")]
    measured = [(value, round) for value, round in found if value is not None]
    return max(measured, key=lambda item: item[0])[1] if measured else None


def tiles(run: Training) -> list[Tile]:
    """What to see first."""
    steps, heldout = run.kind("step"), run.heldout
    found = []
    rewards = [value for line in steps if (value := interval(line, "reward"))]
    if len(rewards) > 1:
        change = f"{number(rewards[0][0])} → {number(rewards[-1][0])}"
        found.append(Tile("reward, first → last step", change, "on the questions that are rewarded"))
    for name, title in (("gain", "held-out gain, trained"), ("accuracy", "held-out answers right, trained")):
        value = interval(heldout.get("trained", {}), name)
        if value is not None:
            raw = interval(heldout.get("raw", {}), name)
            found.append(Tile(title, spoken(value), f"raw documents {spoken(raw)}" if raw else ""))
    best = best_validated(run)
    if best is not None and steps:
        last = max(line["round"] for line in steps)
        found.append(Tile("teacher kept", f"round {best} of {last}" if best else "the untrained one", "by validation"))
    return [tile._replace(name=f"{tile.name}, {run.label}") for tile in found] if run.label else found

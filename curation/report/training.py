"""What a training run's journal says, in words: verdicts and key figures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from configs.files import Record, read_json_lines
from configs.format import amount
from configs.load import load_config
from configs.schema import Config
from configs.schema.reward import Measure
from curation.report.parts import Tile, Verdict, number, slug
from curation.report.plots import Interval, interval_text
from student.records import MEASURES, in_measure
from teacher.records import ONE_RUN
from teacher.reward.assignment import batches_of
from teacher.run.history import worth

ARMS = {
    "raw": "the documents themselves",
    "untrained": "the untrained teacher's lessons",
    "trained": "the trained teacher's lessons",
}


class Training(NamedTuple):
    """A journal as it is read."""

    config: Config
    metrics: Sequence[Record]
    rewrites: Sequence[Record]
    folder: Path = Path()
    label: str = ""
    """The student that the teacher was trained for, where a page shows several trainings."""

    def id(self, name: str) -> str:
        """`name` as an id that no other training of the page has."""
        return f"{slug(self.label)}-{name}" if self.label else name

    def kind(self, kind: str) -> list[Record]:
        """The lines of one kind, in the order of their rounds (a fork may count its steps otherwise)."""
        return sorted((line for line in self.metrics if line["kind"] == kind), key=round_and_step)

    @property
    def gains(self) -> dict[Measure, str]:
        """The measures that the journal tells, and how each line names its gain: the rewarded one first."""
        rewarded = self.config.reward.measure
        told = {key.split("/")[1] for line in self.metrics for key in line if key.startswith("gain/")}
        return {rewarded: "gain", **{m: f"gain/{m}" for m in MEASURES if m in told and m != rewarded}}

    def gain(self, measure: Measure) -> str:
        """`gain`, or `gain in choice, not rewarded`: the words of a title."""
        return "gain" if measure == self.config.reward.measure else f"gain in {measure}, not rewarded"

    @property
    def heldout(self) -> dict[str, Record]:
        """The last line of each arm on held-out documents."""
        lines = {line["arm"]: line for line in self.metrics if line["kind"] == "heldout"}
        return {arm: lines[arm] for arm in ARMS if arm in lines}

    def drawn(self, documents: int) -> str:
        """The clusters of the intervals."""
        batches = self._batches(documents)
        if batches == documents:
            return amount(documents, "document")
        return f"{amount(batches, 'batch')} of documents that share students ({amount(documents, 'document')})"

    def bounds(self, mark: str, documents: int) -> str:
        """A caption's sentence about its intervals, which are drawn as `mark`."""
        if self._batches(documents) < 2:
            return f"No interval: {amount(documents, 'document')} in one batch make none possible."
        return f"{mark}: 95% intervals over {self.drawn(documents)}, of {ONE_RUN}."

    def _batches(self, documents: int) -> int:
        return len(batches_of(documents, self.config.reward.documents_together))


def read_training(run_dir: Path, label: str = "") -> Training | None:
    """The run's training; None where it has not begun. Raises UserError for a config that cannot be read."""
    metrics = read_json_lines(run_dir / "journal" / "metrics.jsonl", "kind", "round")
    if not metrics:
        return None
    rewrites = read_json_lines(run_dir / "journal" / "rewrites.jsonl")
    return Training(load_config(run_dir / "config.yaml"), metrics, rewrites, run_dir, label)


def round_and_step(line: Record) -> tuple[int, int]:
    """Where a line stands in its run."""
    return line["round"], line.get("step") or 0


def estimate(line: Mapping[str, Any], name: str) -> Interval | None:
    """A metric of a line; bounds are None where one batch made none possible."""
    mean, low, high = (line.get(f"{name}/{part}") for part in ("mean", "low", "high"))
    if mean is None or not math.isfinite(mean):
        return None
    bounded = low is not None and high is not None and math.isfinite(low) and math.isfinite(high)
    return (mean, low, high) if bounded else (mean, None, None)


def verdicts(run: Training) -> list[Verdict]:
    """What the held-out documents say, in words; an interval that holds zero is no difference."""
    verdicts = []
    difference = next(iter(run.kind("difference")), {})
    for other, name in (("untrained", "from the untrained teacher's"), ("raw", "from the raw documents")):
        value = estimate(difference, f"trained_minus_{other}")
        if value is None:
            continue
        mean, low, high = value
        gain = f"{number(mean, sign=True)} {in_measure(run.config.reward.measure)}"
        if low is None or high is None:
            words = f"Trained teacher minus {other}: {gain}, from too few batches of students for an interval."
            verdicts.append(Verdict(words, "note"))
            continue
        gain += f", 95% interval of {ONE_RUN} [{number(low, sign=True)}, {number(high, sign=True)}]"
        lessons = "from this trained teacher's lessons"
        if low <= 0 <= high:
            words = f"No detectable difference: what students gain {lessons} and {name}, {gain}."
            verdicts.append(Verdict(words, "same"))
        else:
            more = "more" if low > 0 else "less"
            words = f"Students gain {more} {lessons} than {name}: {gain}."
            verdicts.append(Verdict(words, "better" if low > 0 else "worse"))
    if verdicts:
        documents = run.drawn(run.heldout.get("trained", {}).get("documents", 0))
        words = (
            f"Paired by document; {documents}; questions that were never rewarded. The intervals are of {ONE_RUN}: what"
            " another run's teacher would be worth they do not say."
        )
        verdicts.append(Verdict(words, "note"))
    elif not run.label:
        verdicts.append(Verdict("Nothing was compared on held-out documents: set data.heldout.", "note"))
    if best_validated(run) == 0 and run.kind("step"):
        words = "No round gained more than the untrained teacher on the validation documents: it is the one to use."
        verdicts.insert(0, Verdict(words, "note"))
    return verdicts


def best_validated(run: Training) -> int | None:
    """The round that validated best (`teacher.run.history.worth`), the earliest of equals; 0 is the untrained
    teacher."""
    values = [(worth(line, run.config.rl.judged_by), line["round"]) for line in run.kind("validation")]
    measured = [(value, round) for value, round in values if value is not None]
    return max(measured, key=lambda item: item[0])[1] if measured else None


def tiles(run: Training) -> list[Tile]:
    """What to see first."""
    steps, heldout = run.kind("step"), run.heldout
    tiles = []
    rewards = [value for line in steps if (value := estimate(line, "reward"))]
    if len(rewards) > 1:
        change = f"{number(rewards[0][0])} → {number(rewards[-1][0])}"
        tiles.append(Tile("reward, first → last step", change, "on the questions that are rewarded"))
    gain = f"held-out gain in {run.config.reward.measure}, trained"
    for name, title in (("gain", gain), ("accuracy", "held-out answers right, trained")):
        value = estimate(heldout.get("trained", {}), name)
        if value is not None:
            raw = estimate(heldout.get("raw", {}), name)
            tiles.append(Tile(title, interval_text(value), f"raw documents {interval_text(raw)}" if raw else ""))
    best = best_validated(run)
    if best is not None and steps:
        last = max(line["round"] for line in steps)
        tiles.append(Tile("teacher kept", f"round {best} of {last}" if best else "the untrained one", "by validation"))
    return [tile._replace(name=f"{tile.name}, {run.label}") for tile in tiles] if run.label else tiles

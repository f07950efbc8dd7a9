"""One self-contained HTML page about a run: what was gained and how sure that is, before everything else.

    notewright report runs/lab

Reads the run directory alone (config.yaml, journal, the dataset's manifest) and fetches nothing.
"""

import difflib
import importlib.metadata
import json
import math
import platform
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup, escape

from configs.errors import UserError
from configs.files import write_whole
from configs.load import load_config
from configs.schema import Config
from curation.report import plots
from teacher.journal import Record, read_json_lines

ARMS = ("raw", "untrained", "trained")


class Verdict(NamedTuple):
    """A claim in words, and whether the interval supports it."""

    words: str
    sure: bool


class Section(NamedTuple):
    """A heading, what to see there, and one or more plots."""

    title: str
    text: str
    figures: list[Markup]


def write_report(run_dir: Path) -> Path:
    """Writes `run_dir/report.html` and returns its path; appears only complete.

    Raises:
        UserError: the folder holds no run.
    """
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"{run_dir} holds no run: no config.yaml")
    config = load_config(run_dir / "config.yaml")
    metrics = read_json_lines(run_dir / "journal" / "metrics.jsonl")
    rewrites = read_json_lines(run_dir / "journal" / "rewrites.jsonl")
    if not metrics:
        raise UserError(f"{run_dir} has nothing to report yet: its journal is empty")
    steps = sorted((line for line in metrics if line["kind"] == "step"), key=_place)
    heldout = {line["arm"]: line for line in metrics if line["kind"] == "heldout"}
    page = _environment().get_template("report.html.j2").render(
        run=run_dir.name,
        verdicts=verdicts(metrics, heldout),
        sections=[section for section in _sections(steps, heldout, _validations(metrics)) if section.figures],
        heldout=_arm_table(heldout),
        examples=_examples(rewrites, config),
        curation=_manifest(config),
        cost=_cost(steps, metrics),
        config=(run_dir / "config.yaml").read_text(encoding="utf-8"),
        versions=_versions(),
    )  # fmt: skip
    path = run_dir / "report.html"
    write_whole(path, page.encode())
    return path


def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)


def verdicts(metrics: list[Record], heldout: dict[str, Record]) -> list[Verdict]:
    """What the held-out documents say, in words; an interval that holds zero is no difference."""
    found = []
    difference = next((line for line in metrics if line["kind"] == "difference"), {})
    for other, name in (("untrained", "the untrained teacher's"), ("raw", "the raw documents")):
        interval = _interval(difference, f"trained_minus_{other}")
        if interval is None:
            if f"trained_minus_{other}/mean" in difference:
                mean = difference[f"trained_minus_{other}/mean"]
                words = f"Against {name}: {mean:+.2f} nats a token, from too few batches of students for an interval."
                found.append(Verdict(words, False))
            continue
        mean, low, high = interval
        figures = f"{mean:+.2f} nats a token, 95% interval [{low:+.2f}, {high:+.2f}]"
        if low <= 0 <= high:
            words = f"No detectable difference between the trained teacher's lessons and {name}"
        else:
            more = "more" if low > 0 else "less"
            words = f"Students gain {more} from the trained teacher's lessons than from {name}"
        found.append(Verdict(f"{words}: {figures}.", not low <= 0 <= high))
    if found:
        n = heldout.get("trained", {}).get("documents", "?")
        found.append(Verdict(f"Measured on {n} held-out documents and questions that were never rewarded.", False))
    else:
        found.append(Verdict("Nothing was compared on held-out documents: set data.heldout.", False))
    if _best_validated(_validations(metrics)) == 0 and any(line["kind"] == "step" for line in metrics):
        words = "No round beat the untrained teacher on the validation documents: it is the one to use."
        found.insert(0, Verdict(words, False))
    return found


def _place(line: Record) -> tuple[int, int]:
    """A fork may count its steps otherwise than the rounds that it took over."""
    return line["round"], line["step"]


def _validations(metrics: list[Record]) -> list[Record]:
    return sorted((line for line in metrics if line["kind"] == "validation"), key=lambda line: line["round"])


def _best_validated(validations: list[Record]) -> int | None:
    """The round that validated best, the earliest of equals; 0 is the untrained teacher."""
    measured = [line for line in validations if line.get("gain/mean") is not None]
    return max(measured, key=lambda line: line["gain/mean"])["round"] if measured else None


def _interval(line: Record, name: str) -> plots.Interval | None:
    values = tuple(line.get(f"{name}/{part}") for part in ("mean", "low", "high"))
    if any(value is None or not math.isfinite(value) for value in values):
        return None
    return values  # type: ignore[return-value]


def _sections(steps: list[Record], heldout: dict[str, Record], validations: list[Record]) -> list[Section]:
    gains = {arm: i for arm in ARMS if (i := _interval(heldout.get(arm, {}), "gain"))}
    right = {arm: i for arm in ARMS if (i := _interval(heldout.get(arm, {}), "accuracy"))}
    figures = [plots.bars_with_interval(gains, xlabel="gain on held-out questions (nats a token)")] if gains else []
    figures += [plots.bars_with_interval(right, xlabel="share of held-out questions answered right")] if right else []
    sections = [
        Section(
            "What students gain, on documents the teacher never learnt on",
            "Means with 95% intervals over documents. Raw: the student reads the document itself.",
            [Markup(figure) for figure in figures],
        )
    ]
    if validations:
        sections.append(_validation_section(validations))
    if steps:
        sections += _step_sections(steps)
    return sections


def _validation_section(validations: list[Record]) -> Section:
    rounds = [line["round"] for line in validations]
    intervals = [interval for line in validations if (interval := _interval(line, "gain"))]
    ylabel = "validation gain (nats a token)"
    if len(intervals) == len(rounds):
        figure = plots.curve_with_interval(rounds, intervals, xlabel="round", ylabel=ylabel)
    else:
        means = [line.get("gain/mean") for line in validations]
        figure = plots.lines({"mean": (rounds, means)}, xlabel="round", ylabel=ylabel)
    best = _best_validated(validations)
    return Section(
        "Validation, round by round",
        "What students gain on documents of data.train that are never trained on; round 0 is the untrained teacher. "
        f"Best: {'none was measured' if best is None else f'round {best}'}.",
        [Markup(figure)],
    )


def _step_sections(steps: list[Record]) -> list[Section]:
    x = _numbers(steps)
    rewards = [interval for line in steps if (interval := _interval(line, "reward"))]
    shares = _series(steps, "strategy/")
    gains = _series(steps, "gain_by_strategy/")
    noise = {
        name: (x, [line.get(key) for line in steps])
        for key, name in (("reward/reliability", "reliability"),)
        if any(line.get(key) is not None for line in steps)
    }
    variety = {
        name: (x, [line.get(key) for line in steps])
        for key, name in (
            ("diversity/compression_ratio", "compression ratio of a group"),
            ("diversity/distinct_strategies", "distinct strategies in a group"),
        )
    }
    gates: Counter[str] = Counter()
    for line in steps:
        gates.update({k.removeprefix("gates/"): v for k, v in line.items() if k.startswith("gates/") and v})

    def drawn(*figures: str) -> list[Markup]:
        return [Markup(figure) for figure in figures if figure]

    return [
        Section(
            "Reward, step by step",
            "Mean reward of the sampled rewrites; the band is the 95% interval over the step's documents.",
            drawn(
                plots.curve_with_interval(x, rewards, xlabel="step", ylabel="reward") if len(rewards) == len(x) else ""
            ),
        ),
        Section(
            "What the teacher writes",
            "Share of the samples by strategy, and what students gained from each.",
            drawn(
                plots.lines(shares, xlabel="step", ylabel="share of samples", ylim=(-0.02, 1.02)) if shares else "",
                plots.lines(gains, xlabel="step", ylabel="gain (nats a token)") if gains else "",
            ),
        ),
        Section(
            "How much of the reward is signal",
            "Reliability: the share of the variance between a document's rewrites that is not retraining noise.",
            drawn(plots.lines(noise, xlabel="step", ylabel="reliability", ylim=(-0.02, 1.02)) if noise else ""),
        ),
        Section(
            "Diversity",
            "A compression ratio that climbs, or strategies that vanish, mean that the samples of a group grow alike.",
            drawn(plots.lines(variety, xlabel="step", ylabel="diversity")),
        ),
        Section(
            "What the gates refused",
            "Rewrites that no student saw, by reason, over all steps.",
            drawn(plots.bars(dict(gates.most_common()), xlabel="rewrites refused") if gates else ""),
        ),
    ]


def _numbers(steps: list[Record]) -> list[float]:
    return list(range(1, len(steps) + 1))


def _series(steps: list[Record], prefix: str) -> dict[str, plots.Line]:
    """A curve for each key with the prefix, the one with the largest values first."""
    names = {key for line in steps for key in line if key.startswith(prefix)}
    absent = 0.0 if prefix == "strategy/" else None
    curves = {name: [line.get(name, absent) for line in steps] for name in names}
    order = sorted(names, key=lambda name: -sum(value or 0 for value in curves[name]))
    x = _numbers(steps)
    return {name.removeprefix(prefix): (x, curves[name]) for name in order}  # type: ignore[misc]


def _arm_table(heldout: dict[str, Record]) -> list[dict[str, Any]]:
    return [
        {
            "arm": arm,
            "gain": _interval(heldout[arm], "gain"),
            "accuracy": _interval(heldout[arm], "accuracy"),
            "strategies": sorted(
                ((k.removeprefix("strategy/"), v) for k, v in heldout[arm].items() if k.startswith("strategy/")),
                key=lambda item: -item[1],
            ),
            "documents": heldout[arm].get("documents"),
        }
        for arm in ARMS
        if arm in heldout
    ]


def _examples(rewrites: list[Record], config: Config) -> list[dict[str, Any]]:
    """Held-out documents before and after training, and the best and the worst lesson of the last step."""
    found = []
    before, after = (
        {line["document_id"]: line for line in rewrites if line["arm"] == arm} for arm in ("untrained", "trained")
    )
    for name in [name for name in before if name in after][:2]:
        old, new = _marked(before[name]["text"], after[name]["text"])
        found.append(
            {
                "title": f"Held-out document {name}",
                "left": f"untrained teacher ({before[name]['strategy']})",
                "right": f"trained teacher ({after[name]['strategy']})",
                "left_text": old,
                "right_text": new,
            }
        )
    scored = [line for line in rewrites if line["arm"] == "train" and line.get("gain") is not None]
    if scored:
        end = max(map(_place, scored))
        last = [line for line in scored if _place(line) == end]
        best, worst = max(last, key=lambda line: line["gain"]), min(last, key=lambda line: line["gain"])
        found.append(
            {
                "title": "Highest and lowest gain of the last step",
                "left": f"{best['gain']:+.2f} nats a token ({best['strategy']}, {best['document_id']})",
                "right": f"{worst['gain']:+.2f} nats a token ({worst['strategy']}, {worst['document_id']})",
                "left_text": Markup(escape(best["text"])),
                "right_text": Markup(escape(worst["text"])),
            }
        )
    return found


def _marked(before: str, after: str) -> tuple[Markup, Markup]:
    """Both texts with the words that only one of them has marked."""
    old, new = before.split(" "), after.split(" ")
    left: list[Markup] = []
    right: list[Markup] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        for words, side, tag in ((old[a:b], left, "del"), (new[c:d], right, "ins")):
            text = escape(" ".join(words))
            if words:
                side.append(text if kind == "equal" else Markup(f"<{tag}>{text}</{tag}>"))
    return Markup(" ").join(left), Markup(" ").join(right)


def _manifest(config: Config) -> dict[str, Any] | None:
    path = config.curation.output / "manifest.json"
    if not path.is_file():
        return None
    manifest = json.loads(path.read_text(encoding="utf-8"))
    files = manifest["files"]
    counts = {
        name: sum(file[name] for file in files)
        for name in ("documents_in", "documents_out", "filtered", "quarantined", "failed")
    }
    return {"folder": str(config.curation.output), "files": len(files), **counts, "shards": manifest["shards"]}


def _cost(steps: list[Record], metrics: list[Record]) -> dict[str, float]:
    updates = [line for line in metrics if line["kind"] == "update"]
    return {
        "student runs of training": max((line.get("students_total", 0) for line in metrics), default=0),
        "seconds scoring": round(sum(line.get("seconds", 0.0) for line in steps), 1),
        "seconds updating the teacher": round(sum(line.get("seconds", 0.0) for line in updates), 1),
    }


def _versions() -> dict[str, str]:
    names = ("notewright", "torch", "transformers", "trl", "peft", "datasets", "datatrove")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found

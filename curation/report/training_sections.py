"""The sections that a training run's journal fills."""

from collections import Counter
from collections.abc import Mapping, Sequence

from configs.files import Record
from curation.report import plots
from curation.report.parts import Block, Figure, Section, Table, cell, count, number, shares, slug
from curation.report.plots import Curve, Interval, Row, plain, spoken
from curation.report.training import ARMS, GAIN, Training, best_validated, interval, place

RIGHT = "questions answered right (share)"
DIVERSITY = (
    (
        "How much the texts repeat each other",
        "compression ratio",
        {"compression_ratio": "all samples of a document", "lesson_compression_ratio": "those of a lesson"},
        "Bytes of the texts by their bytes compressed together: 1 is no repetition.",
    ),
    (
        "Strategies tried on a document",
        "different strategies",
        {"distinct_strategies": "strategies"},
        "Mean number of different strategies among the samples of one document.",
    ),
    (
        "Overlap inside a lesson",
        "shared 4-grams (share)",
        {"lesson_overlap": "overlap"},
        "Share of a rewrite's word 4-grams that another rewrite of its lesson holds too.",
    ),
)
"""Title, axis, metrics with their labels, caption."""


def sections(run: Training) -> list[Section]:
    """In the order in which a sceptic asks."""
    steps = run.kind("step")
    found = [_heldout(run)] if run.heldout else []
    found += [_validation(run)] if run.kind("validation") else []
    if not steps:
        return found
    found += [
        _reward(run, steps),
        _strategies(run, steps),
        _reliability(run, steps),
        _diversity(run, steps),
        _gates(run),
    ]
    penalties = sorted({key for line in steps for key in line if key.startswith("penalty/")})
    return [*found, _penalties(run, steps, penalties)] if penalties else found


def _heldout(run: Training) -> Section:
    n = max(line.get("documents", 0) for line in run.heldout.values())
    drawn = run.bounds("Whiskers", n)
    difference = next(iter(run.kind("difference")), {})
    arms = list(run.heldout)
    figures = [
        _forest(run, "Held-out gain", {arm: interval(run.heldout[arm], "gain") for arm in arms}, GAIN, drawn),
        _forest(run, "Held-out answers", {arm: interval(run.heldout[arm], "accuracy") for arm in arms}, RIGHT, drawn),
        _forest(
            run,
            "Trained teacher against the others",
            {f"trained − {other}": interval(difference, f"trained_minus_{other}") for other in arms},
            f"difference in {GAIN}",
            f"Paired by document. {drawn}",
        ),
    ]
    text = "Documents and questions that the teacher never learnt on, equal optimiser steps for all."
    blocks = [Block([figure for figure in figures if figure], [_arm_table(run)])]
    return Section(run.id("heldout"), "Held-out documents", "What students gain, on held-out documents", text, blocks)


def _forest(
    run: Training, title: str, values: Mapping[str, Interval | None], xlabel: str, caption: str
) -> Figure | None:
    rows = [Row(name, value, name.startswith("trained")) for name, value in values.items() if value is not None]
    if not rows:
        return None
    sign = "+" if "difference" in xlabel else ""
    name = run.id(slug(title))
    return Figure(title, plots.forest(name, title, rows, xlabel=xlabel, sign=sign, share=xlabel == RIGHT), caption)


def _arm_table(run: Training) -> Table:
    students = dict.fromkeys(
        key.split("/")[1] for line in run.heldout.values() for key in line if key.startswith("student/")
    )
    rows = []
    for arm, line in run.heldout.items():
        kept = [(key.removeprefix("strategy/"), value) for key, value in line.items() if key.startswith("strategy/")]
        written = shares(sorted(kept, key=lambda item: -item[1]))
        for student in ("", *students):
            prefix = f"student/{student}/" if student else ""
            gain, right = interval(line, f"{prefix}gain"), interval(line, f"{prefix}accuracy")
            name = f"{arm}, {student}" if student else arm
            what = "" if student else written or ARMS[arm]
            rows.append([name, cell(gain), cell(right), str(line.get("documents", "")), what])
    return Table(["lessons", GAIN, "answered right", "documents", "what they are"], rows, "lrrrw")


def _validation(run: Training) -> Section:
    lines = run.kind("validation")
    rounds, best = [line["round"] for line in lines], best_validated(run)
    n = lines[-1].get("documents", run.config.rl.validation_documents)
    mark = None if best is None else (best, "kept")
    figures = []
    for name, ylabel in (("gain", GAIN), ("accuracy", RIGHT)):
        values = [interval(line, name) for line in lines]
        if any(values):
            title = f"Validation {name}"
            svg = plots.curves(
                run.id(f"validation-{name}"), title, {name: Curve(rounds, values)}, xlabel="round", ylabel=ylabel,
                share=name == "accuracy", mark=mark,
            )  # fmt: skip
            table = Table(["round", name], [[str(r), cell(v)] for r, v in zip(rounds, values, strict=True)], "rr")
            figures.append(Figure(title, svg, run.bounds("Band", n), table))
    shown = "none was measured" if best is None else f"round {best}"
    text = (
        "Documents of data.train that are never trained on; round 0 is the untrained teacher. The round with the "
        f"highest reward is kept. Best: {shown}."
    )
    return Section(run.id("validation"), "Validation", "Validation, round by round", text, [Block(figures)])


def _reward(run: Training, steps: Sequence[Record]) -> Section:
    x = _numbers(steps)
    documents: dict[tuple[int, int], set[str]] = {}
    for line in run.rewrites:
        if line["arm"] == "train":
            documents.setdefault(place(line), set()).add(line["document_id"])
    n = max(map(len, documents.values()), default=0)
    series = {"reward": Curve(x, [interval(line, "reward") for line in steps])}
    gains = [line.get("gain/mean") for line in steps]
    penalised = any(key.startswith("penalty/") for line in steps for key in line)
    if penalised and any(value is not None for value in gains):
        series["gain, before penalties"] = Curve(x, plain(gains))
    svg = plots.curves(run.id("reward-by-step"), "Reward", series, xlabel="step", ylabel="mean reward (nats a token)")
    rows = [
        [str(line["round"]), str(at), cell(interval(line, "reward")), count(line.get("students", 0))]
        for at, line in zip(x, steps, strict=True)
    ]
    table = Table(["round", "step", "reward", "student runs"], rows, "rrrr")
    text = (
        "Mean reward of what the teacher sampled while it learnt, on the questions that are rewarded. A rising curve "
        "shows that RL works, not that the lessons help elsewhere: that is what held-out documents are for."
    )
    figure = Figure("Reward", svg, run.bounds("Band", n), table)
    return Section(run.id("reward"), "Reward", "Reward, step by step", text, [Block([figure])])


def _strategies(run: Training, steps: Sequence[Record]) -> Section:
    x, figures = _numbers(steps), []
    written, gains = _series(steps, "strategy/"), _series(steps, "gain_by_strategy/")
    if written:
        title, filled = "Strategies written", {name: [v or 0.0 for v in values] for name, values in written.items()}
        svg = plots.stacked(run.id("strategies-written"), title, x, filled, xlabel="step", ylabel="share of samples")
        caption = "Share of the step's samples, refused ones and those dealt for exploration included."
        figures.append(Figure(title, svg, caption, _series_table(x, written)))
    if gains:
        title, curves = "Gain by strategy", {name: Curve(x, plain(values)) for name, values in gains.items()}
        svg = plots.curves(run.id("gain-by-strategy"), title, curves, xlabel="step", ylabel=GAIN)
        caption = "Mean gain of students taught with it; no interval, and few samples where a strategy is rare."
        figures.append(Figure(title, svg, caption, _series_table(x, gains)))
    text = "Share of the samples by strategy, and what students gained from each."
    return Section(run.id("strategies"), "Strategies", "What the teacher writes", text, [Block(figures)])


def _reliability(run: Training, steps: Sequence[Record]) -> Section:
    x, values, figures = _numbers(steps), [line.get("reward/reliability") for line in steps], []
    text = (
        "Reliability is the share of the variance between a document's lessons that is not retraining noise: at 0 the "
        "teacher is fitted to luck, at 1 the same lesson always earns the same."
    )
    if any(value is not None for value in values):
        title, series = "Reliability of the reward", {"reliability": Curve(x, plain(values))}
        svg = plots.curves(
            run.id("reliability-by-step"), title, series, xlabel="step", ylabel="reliability", share=True
        )
        repeats = run.config.reward.repeats
        how = f"Of the mean of {repeats} students" if repeats > 1 else "Of one student, from lessons taught twice"
        figures.append(Figure(title, svg, f"{how}; an estimate a step, without interval."))
    else:
        text += " It was not measured in this run."
    pilot = next(iter(run.kind("pilot")), {})
    found = interval(pilot, "reliability")
    if found is not None:
        text += f" Before the first round: {spoken(found)} on {pilot['documents']} documents (95% interval)."
    return Section(run.id("reliability"), "Reliability", "How much of the reward is signal", text, [Block(figures)])


def _diversity(run: Training, steps: Sequence[Record]) -> Section:
    x, figures = _numbers(steps), []
    for title, ylabel, series, caption in DIVERSITY:
        values = {label: [line.get(f"diversity/{key}") for line in steps] for key, label in series.items()}
        curves = {
            label: Curve(x, plain(own)) for label, own in values.items() if any(value is not None for value in own)
        }
        if curves:
            floor = 1.0 if "compression" in ylabel else 0.0
            name = run.id(slug(title))
            svg = plots.curves(name, title, curves, xlabel="step", ylabel=ylabel, floor=floor)
            figures.append(Figure(title, svg, caption))
    text = "Samples that grow alike, or strategies that vanish, leave RL nothing to choose from."
    return Section(run.id("diversity"), "Diversity", "Diversity", text, [Block(figures)])


def _gates(run: Training) -> Section:
    sampled = [line for line in run.rewrites if line["arm"] == "train"]
    refused = Counter(line["rejected"] for line in sampled if line.get("rejected"))
    text = f"Rewrites that no student saw, by reason: {count(refused.total())} of {count(len(sampled))} sampled."
    blocks = []
    if refused:
        title = "Refused rewrites by reason"
        svg = plots.bars(run.id("refused-by-reason"), title, dict(refused.most_common()), xlabel="rewrites refused")
        by_round: dict[int, Counter[str]] = {}
        for line in sampled:
            by_round.setdefault(line["round"], Counter())[line.get("rejected") or ""] += 1
        rows = [[str(round), *(str(found[reason]) for reason in refused)] for round, found in sorted(by_round.items())]
        table = Table(["round", *refused], rows, "r" * (len(refused) + 1))
        blocks.append(Block([Figure(title, svg, "All steps of training together.", table)]))
    return Section(run.id("gates"), "Gates", "What the gates refused", text, blocks)


def _penalties(run: Training, steps: Sequence[Record], penalties: Sequence[str]) -> Section:
    x, name, title = _numbers(steps), run.id("penalties-by-step"), "Penalties"
    curves = {key.removeprefix("penalty/"): Curve(x, plain([line.get(key) for line in steps])) for key in penalties}
    svg = plots.curves(name, title, curves, xlabel="step", ylabel="taken off (nats a token)", floor=0.0)
    text = "What was taken off the gain, mean over the step's rewrites; `retention` is what students forgot."
    blocks = [Block([Figure(title, svg, "Means, no interval.")])]
    return Section(run.id("penalties"), "Penalties", "Forgetting and other penalties in the reward", text, blocks)


def _numbers(steps: Sequence[Record]) -> range:
    """Steps from 1: a fork may number its own otherwise than those that it took over."""
    return range(1, len(steps) + 1)


def _series(steps: Sequence[Record], prefix: str) -> dict[str, list[float | None]]:
    """Values by name for each key with the prefix, the one with the largest values first."""
    names = {key for line in steps for key in line if key.startswith(prefix)}
    found = {name: [line.get(name) for line in steps] for name in names}
    order = sorted(names, key=lambda name: (-sum(value or 0 for value in found[name]), name))
    return {name.removeprefix(prefix): found[name] for name in order}


def _series_table(x: Sequence[int], series: Mapping[str, Sequence[float | None]]) -> Table:
    rows = [[str(at), *(number(values[i]) for values in series.values())] for i, at in enumerate(x)]
    return Table(["step", *series], rows, "r" * (len(series) + 1))

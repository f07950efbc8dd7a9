"""The sections that a training run's journal fills."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from configs.files import Record
from configs.format import interval
from configs.schema import Config
from curation.console.tables import Table, print_tables, stdout_console
from curation.report import plots
from curation.report.parts import Block, Figure, Section, cell, count, draw, number, shares
from curation.report.plots import Curve, Interval, Row, interval_text
from curation.report.training import ARMS, Training, best_validated, estimate, read_training, round_and_step
from student.records import UNITS, in_measure
from teacher.reward.evaluation import difference_name
from teacher.training.summary import TrainSummary

RIGHT = "questions answered right (share)"
DIVERSITY = (
    (
        "How much the texts repeat each other",
        "compression ratio",
        {"compression_ratio": "all samples of a document", "lesson_compression_ratio": "those of a lesson"},
        "Bytes of the texts by their bytes compressed together: 1 is no repetition.",
        1.0,
    ),
    (
        "Strategies tried on a document",
        "different strategies",
        {"distinct_strategies": "strategies"},
        "Mean number of different strategies among the samples of one document.",
        0.0,
    ),
    (
        "Overlap inside a lesson",
        "shared 4-grams (share)",
        {"lesson_overlap": "overlap"},
        "Share of a rewrite's word 4-grams that another rewrite of its lesson holds too.",
        0.0,
    ),
)
"""Title, axis, metrics with their labels, caption, where the axis begins."""


def sections(run: Training) -> list[Section]:
    """In the order in which a sceptic asks."""
    steps = run.kind("step")
    sections = [_heldout(run)] if run.heldout else []
    sections += [_validation(run)] if run.kind("validation") else []
    if not steps:
        return sections
    sections += [section_of(run, steps) for section_of in (_reward, _strategies, _reliability, _diversity)]
    sections.append(_gates(run))
    if penalties := dict(sorted(_metrics_with("penalty/", steps).items())):
        axis = f"taken off ({UNITS[run.config.reward.measure]})"
        title = "Forgetting and other penalties in the reward"
        figures = _by_step(run, "Penalties", penalties, "Means, no interval.", ylabel=axis, floor=0.0)
        text = "What was taken off the gain, mean over the step's rewrites; `retention` is what students forgot."
        sections.append(Section(run.id("penalties"), "Penalties", title, text, [Block(figures)]))
    return sections


def _heldout(run: Training) -> Section:
    whiskers = run.bounds("Whiskers", _documents(run))
    difference = next(iter(run.kind("difference")), {})

    def forest(title: str, values: Mapping[str, Interval | None], caption: str, **options: Any) -> list[Figure]:
        rows = [Row(name, value, name.startswith("trained")) for name, value in values.items() if value is not None]
        return [draw(plots.forest, title, rows, caption, within=run.label, **options)] if rows else []

    def by_arm(metric: str) -> dict[str, Interval | None]:
        return {arm: estimate(line, metric) for arm, line in run.heldout.items()}

    figures = [
        figure
        for measure, key in run.gains.items()
        for figure in forest(
            f"Held-out {run.gain(measure)}", by_arm(key), whiskers, xlabel=f"gain {in_measure(measure)}"
        )
    ]
    figures[1:1] = forest("Held-out answers", by_arm("accuracy"), whiskers, xlabel=RIGHT, share=True)
    for measure in run.gains:
        differences = {
            f"trained − {other}": estimate(difference, difference_name(measure, run.config.reward.measure, other))
            for other in run.heldout
        }
        title = f"Trained teacher against the others, {run.gain(measure)}"
        axis = f"difference in gain {in_measure(measure)}"
        figures += forest(title, differences, f"Paired by document. {whiskers}", xlabel=axis, sign=True)
    text = "Documents and questions that the teacher never learnt on, equal optimiser steps for all."
    blocks = [Block(figures, [_arm_table(run)])]
    return Section(run.id("heldout"), "Held-out documents", "What students gain, on held-out documents", text, blocks)


def _documents(run: Training) -> int:
    return max(line.get("documents", 0) for line in run.heldout.values())


def _arm_table(run: Training) -> Table:
    """A row an arm, and below it one for each student where there are several; then the trained teacher's minus each
    other, paired by document."""
    keys = [key for line in run.heldout.values() for key in line if key.startswith("student/")]
    students = dict.fromkeys(key.split("/")[1] for key in keys)
    rows = []
    for arm, line in run.heldout.items():
        strategies = [(key.removeprefix("strategy/"), line[key]) for key in line if key.startswith("strategy/")]
        written = shares(sorted(strategies, key=lambda item: -item[1])) or ARMS[arm]
        for prefix, name, words in (("", arm, written), *((f"student/{s}/", f"{arm}, {s}", "") for s in students)):
            values = [cell(estimate(line, prefix + key)) for key in (*run.gains.values(), "accuracy")]
            rows.append([name, *values, str(line.get("documents", "")), words])
    difference, rewarded = next(iter(run.kind("difference")), {}), run.config.reward.measure
    for other in run.heldout:
        for prefix, of in (("", ""), *((f"student/{student}/", f", {student}") for student in students)):
            names = [*(difference_name(measure, rewarded, other) for measure in run.gains), f"accuracy_minus_{other}"]
            found = [estimate(difference, prefix + name) for name in names]
            if any(found):
                rows.append([f"trained − {other}{of}", *(cell(value, sign=True) for value in found), "", ""])
    gains = [f"gain {in_measure(measure)}" for measure in run.gains]
    head = ["lessons", *gains, "answered right", "documents", "what they are"]
    return Table(head, rows, "l" + "r" * (len(head) - 2) + "w")


def _validation(run: Training) -> Section:
    lines, best, figures = run.kind("validation"), best_validated(run), []
    rounds = [line["round"] for line in lines]
    documents = lines[-1].get("documents", run.config.rl.validation_documents)
    shown = [(key, run.gain(measure), f"gain {in_measure(measure)}") for measure, key in run.gains.items()]
    for metric, words, ylabel in (shown[0], ("accuracy", "accuracy", RIGHT), *shown[1:]):
        values = [estimate(line, metric) for line in lines]
        if any(values):
            rows = [[str(round), cell(value)] for round, value in zip(rounds, values, strict=True)]
            figures.append(
                draw(
                    plots.curves, f"Validation {words}", {words: Curve(rounds, values)},
                    run.bounds("Band", documents), Table(["round", words], rows, "rr"), within=run.label,
                    xlabel="round", ylabel=ylabel, share=metric == "accuracy",
                    mark=None if best is None else (best, "kept"),
                )
            )  # fmt: skip
    judged = f"gain in {run.config.rl.judged_by}" if run.config.rl.judged_by else "reward"
    text = (
        "Documents of data.train that are never trained on; round 0 is the untrained teacher. The round with the "
        f"highest {judged} is kept. Best: {'none was measured' if best is None else f'round {best}'}."
    )
    return Section(run.id("validation"), "Validation", "Validation, round by round", text, [Block(figures)])


Values = Sequence[Interval | float | None]
"""A metric's values, in the order of the steps."""


def _by_step(
    run: Training, title: str, series: Mapping[str, Values], caption: str, table: Table | None = None, **options: Any
) -> list[Figure]:
    """Curves over the steps, which count from 1, since a fork may number its own otherwise than those that it took
    over; no figure where nothing was measured."""
    curves = {
        label: Curve(range(1, len(values) + 1), [(v, None, None) if isinstance(v, int | float) else v for v in values])
        for label, values in series.items()
        if any(value is not None for value in values)
    }
    options |= {"within": run.label, "xlabel": "step"}
    return [draw(plots.curves, title, curves, caption, table, **options)] if curves else []


def _reward(run: Training, steps: Sequence[Record]) -> Section:
    documents: dict[tuple[int, int], set[str]] = {}
    for line in run.rewrites:
        if line["arm"] == "train":
            documents.setdefault(round_and_step(line), set()).add(line["document_id"])
    rewards = [estimate(line, "reward") for line in steps]
    series: dict[str, Values] = {"reward": rewards}
    if _metrics_with("penalty/", steps):
        series["gain, before penalties"] = [line.get("gain/mean") for line in steps]
    rows = [
        [str(line["round"]), str(number), cell(reward), count(line.get("students", 0))]
        for number, (line, reward) in enumerate(zip(steps, rewards, strict=True), start=1)
    ]
    figures = _by_step(
        run, "Reward", series, run.bounds("Band", max(map(len, documents.values()), default=0)),
        Table(["round", "step", "reward", "student runs"], rows, "rrrr"),
        ylabel=f"mean reward ({UNITS[run.config.reward.measure]})",
    )  # fmt: skip
    if len(run.gains) > 1:
        for unit in dict.fromkeys(UNITS[measure] for measure in run.gains):
            told: dict[str, Values] = {
                f"{measure}, rewarded" if measure == run.config.reward.measure else measure: [
                    line.get(f"gain/{measure}") for line in steps
                ]
                for measure in run.gains
                if UNITS[measure] == unit
            }
            caption = "Mean gain before penalties, in each measure that the exam tells; no interval."
            figures += _by_step(run, f"Gain in {unit}", told, caption, ylabel=f"gain ({unit})", named=True)
    text = (
        "Mean reward of what the teacher sampled while it learnt, on the questions that are rewarded. A rising curve "
        "shows that RL works, not that the lessons help elsewhere: that is what held-out documents are for."
    )
    return Section(run.id("reward"), "Reward", "Reward, step by step", text, [Block(figures)])


def _strategies(run: Training, steps: Sequence[Record]) -> Section:
    written, gains = _metrics_with("strategy/", steps), _metrics_with("gain_by_strategy/", steps)
    filled = {name: [value or 0.0 for value in values] for name, values in written.items()}
    caption = "Share of the step's samples, refused ones and those dealt for exploration included."
    axis = "share of samples"
    figures = _by_step(
        run, "Strategies written", filled, caption, _series_table(written), ylabel=axis, share=True, named=True
    )
    caption = "Mean gain of students taught with it; no interval, and few samples where a strategy is rare."
    ylabel = f"gain {in_measure(run.config.reward.measure)}"
    figures += _by_step(run, "Gain by strategy", gains, caption, _series_table(gains), ylabel=ylabel)
    text = "Share of the samples by strategy, and what students gained from each."
    return Section(run.id("strategies"), "Strategies", "What the teacher writes", text, [Block(figures)])


def _reliability(run: Training, steps: Sequence[Record]) -> Section:
    repeats = run.config.reward.repeats
    students = f"Of the mean of {repeats} students" if repeats > 1 else "Of one student, from lessons taught twice"
    figures = _by_step(
        run, "Reliability of the reward", {"reliability": [line.get("reward/reliability") for line in steps]},
        f"{students}; an estimate a step, without interval.", ylabel="reliability", share=True,
    )  # fmt: skip
    text = (
        "Reliability is the share of the variance between a document's lessons that is not retraining noise: at 0 the "
        "teacher is fitted to luck, at 1 the same lesson always earns the same."
    )
    if not figures:
        text += " It was not measured in this run."
    pilot = next(iter(run.kind("pilot")), {})
    before = estimate(pilot, "reliability")
    if before is not None:
        text += f" Before the first round: {interval_text(before)} on {pilot['documents']} documents (95% interval)."
    return Section(run.id("reliability"), "Reliability", "How much of the reward is signal", text, [Block(figures)])


def _diversity(run: Training, steps: Sequence[Record]) -> Section:
    figures = []
    for title, ylabel, labels, caption, floor in DIVERSITY:
        series = {label: [line.get(f"diversity/{metric}") for line in steps] for metric, label in labels.items()}
        figures += _by_step(run, title, series, caption, ylabel=ylabel, floor=floor)
    text = "Samples that grow alike, or strategies that vanish, leave RL nothing to choose from."
    return Section(run.id("diversity"), "Diversity", "Diversity", text, [Block(figures)])


def _gates(run: Training) -> Section:
    sampled = [line for line in run.rewrites if line["arm"] == "train"]
    refused = Counter(line["rejected"] for line in sampled if line.get("rejected"))
    by_round = Counter((line["round"], line.get("rejected")) for line in sampled)
    rounds = sorted({line["round"] for line in sampled})
    rows = [[str(round), *(str(by_round[round, reason]) for reason in refused)] for round in rounds]
    rows.append(["all", *map(str, refused.values())])
    blocks = [Block(tables=[Table(["round", *refused], rows, "r" * (len(refused) + 1))])] if refused else []
    text = f"Rewrites that no student saw, by reason: {count(refused.total())} of {count(len(sampled))} sampled."
    return Section(run.id("gates"), "Gates", "What the gates refused", text, blocks)


def _metrics_with(prefix: str, steps: Sequence[Record]) -> dict[str, list[float | None]]:
    """The values of each metric that begins with `prefix`, by the rest of its name, the largest values first."""
    names = {key for line in steps for key in line if key.startswith(prefix)}
    series = {name: [line.get(name) for line in steps] for name in names}
    order = sorted(names, key=lambda name: (-sum(value or 0 for value in series[name]), name))
    return {name.removeprefix(prefix): series[name] for name in order}


def _series_table(series: Mapping[str, Sequence[float | None]]) -> Table:
    """A row a step."""
    rows = [[str(n), *map(number, values)] for n, values in enumerate(zip(*series.values(), strict=True), start=1)]
    return Table(["step", *series], rows, "r" * (len(series) + 1))


def print_training(summary: TrainSummary, config: Config) -> None:
    """Reward, held-out gain by arm, strategies, and where the outputs are."""
    console = stdout_console()
    first, last = summary.strategies_first, summary.strategies_last
    names = sorted({*first, *last}, key=lambda name: (-last.get(name, 0.0), name))
    rows = [["reward", interval(*summary.reward_first, 3), interval(*summary.reward_last, 3)]]
    rows += [[f"writes {name}", f"{first.get(name, 0.0):.0%}", f"{last.get(name, 0.0):.0%}"] for name in names]
    print_tables(console, Table(["", "first step", "last step"], rows, title="Training"))
    run = read_training(config.run.dir)
    if run is not None and run.heldout:
        print_tables(console, _arm_table(run))
        console.print(run.bounds("Brackets", _documents(run)), markup=False)
    if summary.checkpoint is None:
        teacher = f"{config.teacher.model} as it is: no round gained more on the validation documents"
    else:
        best = "" if summary.best_round is None else f" (round {summary.best_round} validated best)"
        teacher = f"{summary.checkpoint}{best}"
    console.print(
        f"teacher: {teacher}\n"
        f"journal: {config.run.dir / 'journal'}\n"
        f"{summary.algorithm}: {summary.rounds} rounds, {summary.student_runs} student runs ({summary.students} with"
        f" held-out arms in this call), {summary.seconds:.0f} s",
        markup=False,
    )

"""`notewright plan`: what a run will take, from about a minute of measuring; nothing is trained or curated for good.

Every quantity has an interval and says whether it was counted, measured here, extrapolated, calculated from the config,
or assumed. What cannot be measured on this machine is assumed, in words.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers.utils.logging import disable_progress_bar

from configs.errors import UserError
from configs.format import amount, without_nan
from configs.format import quantity as digits
from configs.schema import Config
from configs.schema.curation import Filters
from curation.console.progress import say
from curation.corpus.inputs import model_writes
from curation.pipeline.inputs import find_input
from curation.plan.corpus import survey_corpus
from curation.plan.gpus import (
    END_TO_END,
    SWEEP_SOURCE,
    TRAINING_SHARE,
    Device,
    beyond_sweep,
    find_device,
    student_seconds,
    writing_speed,
)
from curation.plan.models import model_size
from curation.plan.quantity import Quantity, exact
from curation.plan.teacher import TeacherCost, measure_pipeline, measure_teacher
from curation.plan.training import count_students, student_cost, training_documents

SAMPLE = 256
COLOURS = {"counted": "green", "measured": "green", "calculated": "cyan", "extrapolated": "yellow", "assumed": "red"}
PARTS_FACTOR = 2.2
"""Disk when the parts are merged: parts and final files, each about the dataset's size."""


class Row(NamedTuple):
    """A figure of a plan: under `key` in the JSON, and in the table with `words` and the value's `unit`, or what else
    is to be known of it. The table shows `shown` in its place where there is one, and leaves out what is not known."""

    key: str
    value: Any
    words: str = ""
    unit: str = ""
    shown: Quantity | str | None = None


Part = Sequence[Row]


class Plan(NamedTuple):
    """What a config will take. A part that the config does not name is None."""

    curate: Part | None
    train: Part | None
    device: Device
    price: float | None
    """Dollars a GPU-hour."""
    notes: tuple[str, ...]
    """What is assumed, and why."""


def figures(part: Part) -> dict[str, Any]:
    """A part's figures by their keys."""
    return {row.key: row.value for row in part if row.key}


def make_plan(
    config: Config,
    *,
    device: str = "h100",
    price: float | None = None,
    parameters: float | None = None,
    progress: Callable[[str], None] = say,
) -> Plan:
    """Measures what it can in about a minute, and works out the rest.

    `parameters` is the teacher's size, where neither its files nor its name tell it. Raises UserError if the config
    names nothing to curate or train on, or a device that is not known.
    """
    disable_progress_bar()
    gpu, notes = find_device(device), list[str]()
    curate = train = teacher = None
    if config.curation.input:
        curate, teacher = _plan_curate(config, gpu, price, parameters, progress, notes)
    if config.data.train or (config.data.limit and config.student.names[0]):
        # Without a size, an echo curates or the teacher's is not known.
        known = teacher if teacher and teacher.parameters else None
        train = _plan_train(config, known, gpu, price, parameters, progress, notes)
    if curate is None and train is None:
        raise UserError("nothing to plan: name curation.input, or data.train")
    if any(part is not None and figures(part)["gpu_hours"] is not None for part in (curate, train)):
        notes.append(
            f"assumed for {gpu.name}: {SWEEP_SOURCE}, between models by parameters on a log-log line, of which a whole"
            f" run reaches {END_TO_END[0]:.0%}-{END_TO_END[1]:.0%}; other GPUs by data sheet; training at"
            f" {TRAINING_SHARE:.0%} of peak"
        )
    return Plan(curate=curate, train=train, device=gpu, price=price, notes=tuple(dict.fromkeys(notes)))


def _speed(gpu: Device, parameters: float, notes: list[str]) -> Quantity:
    """Tokens a second that a whole run of a model of that size writes on one assumed device."""
    if beyond_sweep(parameters):
        notes.append(f"{parameters:.3g} parameters are beyond the models of the sweep: its ends are carried on")
    low, high = writing_speed(gpu, parameters)
    return Quantity((low + high) / 2, low, high, "assumed")


def _plan_curate(
    config: Config, gpu: Device, price: float | None, parameters: float | None, progress: Callable[[str], None],
    notes: list[str],
) -> tuple[Part, TeacherCost]:  # fmt: skip
    curation, shards = config.curation, find_input(config)
    progress(f"looking into {amount(len(shards), 'input file')}")
    corpus = survey_corpus(shards, curation.limit, SAMPLE)
    pipeline = measure_pipeline(config, corpus.sample)
    one = config.model_copy(update={"curation": curation.model_copy(update={"best_of": 1})})
    teacher = measure_teacher(one, corpus.sample, parameters, progress)
    notes += teacher.notes
    if curation.dedup != "none":
        notes.append("duplicates are not seen in a sample: with them there is less to write than planned")
    if not teacher.kept.value:
        notes.append(f"none of {teacher.rewrites_measured} rewrites was kept: look why with `notewright preview`")
    reached = corpus.documents * pipeline.past_filters
    written = reached * teacher.passages
    rewrites = written * curation.rewrites_per_document
    tokens_in = written * teacher.source_tokens
    tokens_written = rewrites * curation.best_of * teacher.sampled_tokens
    tokens_out = rewrites * teacher.kept * teacher.kept_tokens + tokens_in * curation.keep_raw
    cpu_hours = corpus.documents * pipeline.cpu_ms / 3.6e6
    hours_here = None
    if not model_writes(config):
        hours_here = cpu_hours / curation.workers
    elif teacher.tokens_per_second:
        writing = tokens_written / exact(3600 * teacher.tokens_per_second, "measured")
        hours_here = writing + cpu_hours / curation.workers
    gpu_hours = gpus = dollars = dollars_per_billion = None
    if teacher.parameters is not None:
        speed = _speed(gpu, teacher.parameters.value, notes)
        gpu_hours = tokens_written / speed / 3600
        # Two bytes a parameter, and a fifth more for keys and values.
        gpus = math.ceil(1.2 * 2 * teacher.parameters.value / 1e9 / gpu.memory_gb)
        if price is not None:
            dollars = gpu_hours * price
            if teacher.kept.value and tokens_out.value:
                # The number of documents cancels out: only the speed and the kept share are uncertain.
                seconds_at_speed_1 = 1e9 * tokens_written.value / tokens_out.value
                kept_ratio = exact(teacher.kept.value) / teacher.kept
                dollars_per_billion = kept_ratio / speed * (seconds_at_speed_1 / 3600 * price)
    # Tokens of rewrites are taken to have as many characters as those of the sample's documents.
    characters = sum(len(document.text) for document in corpus.sample) / len(corpus.sample)
    bytes_per_token = exact(characters * pipeline.bytes_per_character, "measured") / teacher.source_tokens
    dataset_gb = tokens_out * bytes_per_token / 1e9
    size, unit = in_bytes(exact(corpus.bytes / 1e9))
    looked = f"{amount(corpus.files, 'file')}, {digits(size.value)} {unit}, {corpus.files_read} looked into"
    writes, sampled = teacher.tokens_per_second, len(corpus.sample)
    return [
        Row("files", corpus.files, "input", shown=looked),
        Row("files_read", corpus.files_read),
        Row("gigabytes_in", corpus.bytes / 1e9),
        Row("sampled", sampled),
        Row("documents", corpus.documents, "documents"),
        # Those that reach the teacher.
        Row("documents_written", reached, "reach the teacher", f"of {sampled} sampled", pipeline.past_filters),
        # Without the prompt's words around them.
        Row("tokens_in", tokens_in, "tokens in", f"({digits(teacher.source_tokens.value)} a document)"),
        Row("rewrites", rewrites, "rewrites"),
        # Refused rewrites included.
        Row("tokens_written", tokens_written, "tokens written", f"({digits(teacher.sampled_tokens.value)} a rewrite)"),
        Row("kept", teacher.kept, "kept", f"of {teacher.rewrites_measured} rewrites" * bool(teacher.rewrites_measured)),
        # Originals that are mixed in included.
        Row("tokens_out", tokens_out, "tokens out"),
        Row("pipeline", pipeline, "pipeline alone", "ms of CPU a document", pipeline.cpu_ms),
        Row(
            "teacher", teacher, "teacher" * (teacher.weights_gb is not None),
            f"parameters, {teacher.weights_gb or 0:.3g} GB in bfloat16", teacher.parameters,
        ),
        Row("", writes, "this machine writes", f"tokens/s, {teacher.at_once} rewrites at once", digits(writes or 0)),
        _hours_here(hours_here),
        Row("pipeline_cpu_hours", cpu_hours),
        Row("gpu_hours", gpu_hours, f"on {gpu.name}", "GPU-hours"),
        # So many that weights and a fifth more fit.
        Row("gpus_at_least", gpus, "at least" * ((gpus or 0) > 1), "to hold the weights", f"{gpus} {gpu.name}"),
        _bytes_row("dataset_gb", dataset_gb, "dataset"),
        _bytes_row("disk_gb", dataset_gb * PARTS_FACTOR, "disk on the way"),
        Row("dollars", dollars, "cost", f"dollars at {price or 0:g} a GPU-hour"),
        Row("dollars_per_billion", dollars_per_billion, "cost of a billion tokens out", "dollars"),
    ], teacher  # fmt: skip


def in_bytes(gigabytes: Quantity) -> tuple[Quantity, str]:
    """In a unit of which there is at least one."""
    if gigabytes.value >= 1:
        return gigabytes, "GB"
    return (gigabytes * 1e3, "MB") if gigabytes.value >= 1e-3 else (gigabytes * 1e6, "kB")


def _bytes_row(key: str, gigabytes: Quantity, words: str) -> Row:
    shown, unit = in_bytes(gigabytes)
    return Row(key, gigabytes, words, unit, shown)


def _hours_here(hours: Quantity | None) -> Row:
    if hours is None:
        return Row("hours_here", None, "on this machine", shown="unknown: not all of it could be measured here")
    per_hour = {"hours": 1.0, "minutes": 60.0, "s": 3600.0}
    unit = next((unit for unit, number in per_hour.items() if hours.value * number >= 2), "s")
    return Row("hours_here", hours, "on this machine", unit, hours * per_hour[unit])


def _plan_train(
    config: Config, teacher: TeacherCost | None, gpu: Device, price: float | None, parameters: float | None,
    progress: Callable[[str], None], notes: list[str],
) -> Part:  # fmt: skip
    documents, train, heldout = training_documents(config, notes)
    runs = count_students(config, train, heldout)
    if teacher is None and documents:
        # The teacher is measured on training documents, without filters, one rewrite each.
        changes = {"writer": "teacher", "filters": Filters(), "benchmarks": (), "strategies": {}, "dedup": "none",
                   "rewrites_per_document": 1, "best_of": 1, "keep_raw": 0.0,
                   "allow_unknown_licence": True}  # fmt: skip
        curation = config.curation.model_copy(update=changes)
        curating = config.model_copy(update={"curation": curation})
        teacher = measure_teacher(curating, documents[:SAMPLE], parameters, progress)
        notes += teacher.notes
    if teacher is not None:
        length, sampled = teacher.rewrite_tokens, teacher.sampled_tokens
    else:
        most = float(config.teacher.max_new_tokens)
        length = sampled = Quantity(most / 2, most / 8, most, "assumed")
        notes.append(f"a rewrite is assumed to have half of teacher.max_new_tokens ({most:.0f})")
    costs = tuple(student_cost(config, name, documents, length, progress) for name in config.student.names)
    notes += (note for cost in costs for note in cost.notes)
    runs_each = runs.total / len(costs)
    sampled_tokens = sampled * runs.rewrites
    hours_here = gpu_hours = None
    seconds_here = [cost.seconds_here for cost in costs if cost.seconds_here]
    if teacher is not None and teacher.tokens_per_second and len(seconds_here) == len(costs):
        hours_here = sampled_tokens / exact(3600 * teacher.tokens_per_second, "measured")
        for seconds in seconds_here:
            hours_here += seconds * runs_each / 3600
    size = teacher.parameters if teacher is not None else model_size(config.teacher.model, parameters, notes)
    sizes = [cost.parameters.value for cost in costs if cost.parameters]
    if size is not None and len(sizes) == len(costs):
        gpu_hours = sampled_tokens / _speed(gpu, size.value, notes) / 3600
        for cost, student_size in zip(costs, sizes, strict=True):
            seconds_a_token = student_seconds(gpu, student_size, 1.0, full=config.student.mode == "full")
            gpu_hours += cost.tokens * exact(seconds_a_token * runs_each / 3600, "assumed")
    rows = [
        Row("documents", train, "documents", shown=f"{train} to train on, {heldout} held out"),
        Row("heldout", heldout),
        Row("rounds", config.rl.rounds, "rounds", shown=str(config.rl.rounds)),
        Row("", runs, "student runs a round", shown=str(runs.a_round)),
        Row("", runs, "validation", "student runs", str(runs.validation)),
        Row("", runs, "pilot", "student runs", str(runs.pilot)),
        Row("", runs, "held-out arms", "student runs", str(runs.heldout)),
        Row("runs", runs, "student runs", "at the most", str(runs.total)),
        Row("rewrite_tokens", length, "rewrites", f"of {digits(length.value)} tokens", str(runs.rewrites)),
        Row("students", costs),
    ]
    for cost in costs:
        in_steps = "as many steps as lines ask for" if cost.steps is None else f"{cost.steps} steps"
        rows.append(Row("", cost.tokens, f"a student of {cost.model}", f"tokens in {in_steps}"))
        rows.append(Row("", cost.seconds_here, " ", f"s on this machine, {cost.at_once} at once"))
    dollars = gpu_hours * price if gpu_hours and price is not None else None
    return [
        *rows,
        # Sampling and students; the teacher's own updates come on top.
        _hours_here(hours_here),
        # By arithmetic: at least that, since small models leave a GPU idle in between.
        Row("gpu_hours", gpu_hours, f"on {gpu.name}, at least", "GPU-hours"),
        Row("dollars", dollars, "cost", f"dollars at {price or 0:g} a GPU-hour"),
    ]


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain values, each quantity as {value, low, high, how}; what is not finite is None."""
    parts = {name: part and _plain(figures(part)) for name, part in (("curate", plan.curate), ("train", plan.train))}
    return dict(without_nan({**parts, "device": asdict(plan.device), "price": plan.price, "notes": plan.notes}))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def print_plan(plan: Plan, console: Console) -> None:
    """Tables of what is to be curated and trained, then what was assumed."""
    for title, part in (("Curating", plan.curate), ("Training the teacher", plan.train)):
        table = Table("", "", "", title=title, title_justify="left", show_header=False)
        for row in part or ():
            value = row.shown if row.shown is not None else row.value
            if not row.words or value is None or (row.value is None and row.key != "hours_here"):
                continue
            if isinstance(value, Quantity):
                how = Text(value.how, style=COLOURS[value.how])
                table.add_row(row.words, f"{with_range(value)} {row.unit}".strip(), how)
            else:
                table.add_row(row.words, Text(f"{value} {row.unit}".strip()), "")
        if part:
            console.print(table)
    for note in plan.notes:
        console.print(Text(f"* {note}"))


def with_range(quantity: Quantity) -> str:
    """`1.2M (0.9M to 1.6M)`; without the range where there is none."""
    value, low, high = map(digits, (quantity.value, quantity.low, quantity.high))
    return value if quantity.high <= quantity.low else f"{value} ({low} to {high})"

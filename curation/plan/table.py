"""A plan as tables: each quantity with its interval, its unit, and how it is known."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.format import amount
from configs.format import quantity as three_digits
from curation.plan.plan import CuratePlan, Plan, TrainPlan
from curation.plan.quantity import Quantity, exact

COLOURS = {"counted": "green", "measured": "green", "calculated": "cyan", "extrapolated": "yellow", "assumed": "red"}

Row = tuple[str, Quantity | str, str]
"""A row's name, its value, and the value's unit or what else is to be known of it."""


def print_plan(plan: Plan, console: Console) -> None:
    """Tables of what is to be curated and trained, then what was assumed."""
    parts = {
        "Curating": _curate_rows(plan.curate, plan) if plan.curate else [],
        "Training the teacher": _train_rows(plan.train, plan) if plan.train else [],
    }
    for title, rows in parts.items():
        if not rows:
            continue
        table = Table("", "", "", title=title, title_justify="left", show_header=False)
        for name, value, unit in rows:
            if isinstance(value, Quantity):
                table.add_row(name, f"{with_range(value)} {unit}".strip(), Text(value.how, style=COLOURS[value.how]))
            else:
                table.add_row(name, Text(f"{value} {unit}".strip()), "")
        console.print(table)
    for note in plan.notes:
        console.print(Text(f"* {note}"))


def with_range(quantity: Quantity) -> str:
    """`1.2M (0.9M to 1.6M)`; without the range where there is none."""
    value, low, high = map(three_digits, (quantity.value, quantity.low, quantity.high))
    return value if quantity.high <= quantity.low else f"{value} ({low} to {high})"


def _curate_rows(part: CuratePlan, plan: Plan) -> list[Row]:
    teacher, device = part.teacher, plan.device.name
    size, size_unit = _in_bytes(exact(part.gigabytes_in))
    files = f"{amount(part.files, 'file')}, {three_digits(size.value)} {size_unit}"
    rows: list[Row] = [
        ("input", f"{files}, {part.files_read} looked into", ""),
        ("documents", part.documents, ""),
        ("reach the teacher", part.pipeline.past_filters, f"of {part.sampled} sampled"),
        ("tokens in", part.tokens_in, f"({three_digits(teacher.source_tokens.value)} a document)"),
        ("rewrites", part.rewrites, ""),
        ("tokens written", part.tokens_written, f"({three_digits(teacher.sampled_tokens.value)} a rewrite)"),
        ("kept", part.kept, f"of {teacher.rewrites_measured} rewrites" if teacher.rewrites_measured else ""),
        ("tokens out", part.tokens_out, ""),
        ("pipeline alone", part.pipeline.cpu_ms, "ms of CPU a document"),
    ]
    if teacher.parameters is not None and teacher.weights_gb is not None:
        rows.append(("teacher", teacher.parameters, f"parameters, {teacher.weights_gb:.3g} GB in bfloat16"))
    if teacher.tokens_per_second is not None:
        speed = f"{three_digits(teacher.tokens_per_second)} tokens/s with {teacher.at_once} rewrites at once"
        rows.append(("this machine writes", speed, ""))
    rows.append(_hours_here(part.hours_here))
    if part.gpu_hours is not None:
        rows.append((f"on {device}", part.gpu_hours, "GPU-hours"))
    if part.gpus_at_least is not None and part.gpus_at_least > 1:
        rows.append(("at least", f"{part.gpus_at_least} {device}", "to hold the weights"))
    rows += [("dataset", *_in_bytes(part.dataset_gb)), ("disk on the way", *_in_bytes(part.disk_gb))]
    rows += _cost(part.dollars, plan)
    if part.dollars_per_billion is not None:
        rows.append(("cost of a billion tokens out", part.dollars_per_billion, "dollars"))
    return rows


def _train_rows(part: TrainPlan, plan: Plan) -> list[Row]:
    runs = part.runs
    rows: list[Row] = [
        ("documents", f"{part.documents} to train on, {part.heldout} held out", ""),
        ("rounds", str(part.rounds), ""),
        ("student runs a round", str(runs.a_round), ""),
        ("validation", str(runs.validation), "student runs"),
        ("pilot", str(runs.pilot), "student runs"),
        ("held-out arms", str(runs.heldout), "student runs"),
        ("student runs", str(runs.total), "at the most"),
        ("rewrites", str(runs.rewrites), f"of {three_digits(part.rewrite_tokens.value)} tokens"),
    ]
    for student in part.students:
        steps = "as many steps as lines ask for" if student.steps is None else f"{student.steps} steps"
        rows.append((f"a student of {student.model}", student.tokens, f"tokens in {steps}"))
        if student.seconds_here is not None:
            rows.append(("", student.seconds_here, f"s on this machine, {student.at_once} at once"))
    rows.append(_hours_here(part.hours_here))
    if part.gpu_hours is not None:
        rows.append((f"on {plan.device.name}, at least", part.gpu_hours, "GPU-hours"))
    return rows + _cost(part.dollars, plan)


def _hours_here(hours: Quantity | None) -> Row:
    if hours is None:
        return "on this machine", "unknown: not all of it could be measured here", ""
    if hours.value >= 2:
        return "on this machine", hours, "hours"
    unit, per_hour = ("minutes", 60.0) if hours.value * 60 >= 2 else ("s", 3600.0)
    return "on this machine", hours * per_hour, unit


def _in_bytes(gigabytes: Quantity) -> tuple[Quantity, str]:
    if gigabytes.value >= 1:
        return gigabytes, "GB"
    return (gigabytes * 1e3, "MB") if gigabytes.value >= 1e-3 else (gigabytes * 1e6, "kB")


def _cost(dollars: Quantity | None, plan: Plan) -> list[Row]:
    return [] if dollars is None else [("cost", dollars, f"dollars at {plan.price:g} a GPU-hour")]

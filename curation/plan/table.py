"""A plan for the eye: each figure with its interval, its unit, and where it comes from."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.format import quantity
from curation.plan.plan import CuratePlan, Plan, TrainPlan
from curation.plan.quantity import Quantity, exact

COLOURS = {"counted": "green", "measured": "green", "calculated": "cyan", "extrapolated": "yellow", "assumed": "red"}


def print_plan(plan: Plan, console: Console) -> None:
    """Tables of what is to be curated and trained, then what was assumed."""
    for part, title in ((plan.curate, "Curating"), (plan.train, "Training the teacher")):
        if part is None:
            continue
        table = Table("", "", "", title=title, title_justify="left", show_header=False)
        rows = _curate_rows(part, plan) if isinstance(part, CuratePlan) else _train_rows(part, plan)
        for name, figure, unit in rows:
            if isinstance(figure, Quantity):
                table.add_row(name, f"{amount(figure)} {unit}".strip(), Text(figure.how, style=COLOURS[figure.how]))
            else:
                table.add_row(name, Text(f"{figure} {unit}".strip()), "")
        console.print(table)
    for note in plan.notes:
        console.print(Text(f"* {note}"))


def amount(figure: Quantity) -> str:
    """`1.2M (0.9M to 1.6M)`; without the range where there is none."""
    if figure.high <= figure.low:
        return quantity(figure.value)
    return f"{quantity(figure.value)} ({quantity(figure.low)} to {quantity(figure.high)})"


Row = tuple[str, Quantity | str, str]


def _curate_rows(plan: CuratePlan, whole: Plan) -> list[Row]:
    teacher = plan.teacher
    rows: list[Row] = [
        (
            "input",
            f"{plan.files} file{'s' * (plan.files > 1)}, {_size(plan.gigabytes_in)}, {plan.files_read} looked into",
            "",
        ),
        ("documents", plan.documents, ""),
        ("reach the teacher", plan.pipeline.past_filters, f"of {plan.sampled} sampled"),
        ("tokens in", plan.tokens_in, f"({quantity(teacher.source_tokens.value)} a document)"),
        ("rewrites", plan.rewrites, ""),
        ("tokens written", plan.tokens_written, f"({quantity(teacher.written_tokens.value)} a rewrite)"),
        ("kept", plan.kept, f"of {teacher.rewrites_measured} rewrites" if teacher.rewrites_measured else ""),
        ("tokens out", plan.tokens_out, ""),
        ("pipeline alone", plan.pipeline.cpu_ms, "ms of CPU a document"),
    ]
    if teacher.parameters is not None and teacher.weights_gb is not None:
        rows.append(("teacher", teacher.parameters, f"parameters, {teacher.weights_gb:.3g} GB in bfloat16"))
    if teacher.tokens_per_second is not None:
        speed = f"{quantity(teacher.tokens_per_second)} tokens/s with {teacher.at_once} rewrites at once"
        rows.append(("this machine writes", speed, ""))
    rows.append(_here(plan.hours_here))
    if plan.gpu_hours is not None:
        rows.append((f"on {whole.device.name}", plan.gpu_hours, "GPU-hours"))
    if plan.gpus_at_least is not None and plan.gpus_at_least > 1:
        rows.append(("at least", f"{plan.gpus_at_least} {whole.device.name}", "to hold the weights"))
    rows += [("dataset", *_bytes(plan.dataset_gb)), ("disk on the way", *_bytes(plan.disk_gb))]
    return rows + _cost_rows(plan.dollars, plan.dollars_per_billion, whole)


def _train_rows(plan: TrainPlan, whole: Plan) -> list[Row]:
    runs = plan.runs
    rows: list[Row] = [
        ("documents", f"{plan.documents} to train on, {plan.heldout} held out", ""),
        ("rounds", str(plan.rounds), ""),
        ("student runs a round", str(runs.a_round), ""),
        ("validation", str(runs.validation), "student runs"),
        ("pilot", str(runs.pilot), "student runs"),
        ("held-out arms", str(runs.heldout), "student runs"),
        ("student runs", str(runs.total), "at the most"),
        ("rewrites", str(runs.rewrites), f"of {quantity(plan.rewrite_tokens.value)} tokens"),
    ]
    for cost in plan.students:
        steps = "as many steps as lines ask for" if cost.steps is None else f"{cost.steps} steps"
        rows.append((f"a student of {cost.model}", cost.tokens, f"tokens in {steps}"))
        if cost.seconds_here is not None:
            rows.append(("", cost.seconds_here, f"s on this machine, {cost.at_once} at once"))
    rows.append(_here(plan.hours_here))
    if plan.gpu_hours is not None:
        rows.append((f"on {whole.device.name}, at least", plan.gpu_hours, "GPU-hours"))
    return rows + _cost_rows(plan.dollars, None, whole)


def _here(hours: Quantity | None) -> Row:
    if hours is None:
        return "on this machine", "unknown: not all of it could be measured here", ""
    unit, a_unit = next((u for u in (("hours", 1.0), ("minutes", 60.0)) if hours.value * u[1] >= 2), ("s", 3600.0))
    return "on this machine", _times(hours, a_unit), unit


def _bytes(gigabytes: Quantity) -> tuple[Quantity, str]:
    if gigabytes.value >= 1:
        return gigabytes, "GB"
    return (_times(gigabytes, 1e3), "MB") if gigabytes.value >= 1e-3 else (_times(gigabytes, 1e6), "kB")


def _size(gigabytes: float) -> str:
    figure, unit = _bytes(exact(gigabytes))
    return f"{quantity(figure.value)} {unit}"


def _times(figure: Quantity, factor: float) -> Quantity:
    return Quantity(figure.value * factor, figure.low * factor, figure.high * factor, figure.how)


def _cost_rows(dollars: Quantity | None, per_billion: Quantity | None, whole: Plan) -> list[Row]:
    rows: list[Row] = []
    if dollars is not None:
        rows.append(("cost", dollars, f"dollars at {whole.price:g} a GPU-hour"))
    if per_billion is not None:
        rows.append(("cost of a billion tokens out", per_billion, "dollars"))
    return rows

"""The curves of `bench student` and `bench pool` as pictures."""

from pathlib import Path
from typing import Any


def plot_sweep(result: dict[str, Any], path: Path) -> Path:
    """Writes a PNG: seconds, and students a second, against the number of students of `run_bench`'s sweep."""
    from matplotlib.figure import Figure

    points = result["sweep"]
    students = [point["students"] for point in points]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    cost, rate = figure.subplots(1, 2)
    cost.loglog(students, [point["seconds"] for point in points], "o-", base=2, label="engine")
    last = points[-1]
    cost.loglog(students, [last["seconds"] * k / last["students"] for k in students], "--", base=2, label="linear in K")
    cost.set(xlabel="students at once (K)", ylabel=f"seconds for {result['steps']} steps")
    cost.legend()
    rate.semilogx(students, [point["students_per_second"] for point in points], "o-", base=2, label="engine")
    rate.axhline(result["students"] / result["seconds_peft"], ls="--", color="gray", label="separate PEFT runs")
    rate.set(xlabel="students at once (K)", ylabel="students a second", ylim=(0, None))
    rate.legend()
    figure.suptitle(f"{result['model']}, rank {result['rank']}, {result['device']}, {result['threads']} threads")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def plot_scaling(result: dict[str, Any], path: Path) -> Path:
    """Writes a PNG: students a second on simulated GPUs, and the efficiency, for each speed of `bench pool`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    rate, share = figure.subplots(1, 2)
    for times, curve in result["simulation"].items():
        gpus = [point["gpus"] for point in curve["points"]]
        label = f"{1000 * result['costs']['student'] / float(times):.1f} ms a student"
        (line,) = rate.loglog(gpus, [p["students_per_second"] for p in curve["points"]], "o-", base=2, label=label)
        first = curve["points"][0]["students_per_second"] / gpus[0]
        rate.loglog(gpus, [first * n for n in gpus], "--", base=2, color=line.get_color(), lw=0.8)
        share.semilogx(gpus, [p["efficiency"] for p in curve["points"]], "o-", base=2, label=label)
        share.semilogx(gpus, [p["round_efficiency"] for p in curve["points"]], ":", base=2, color=line.get_color())
    rate.set(xlabel="GPUs (dashed: linear)", ylabel="students a second")
    share.set(xlabel="GPUs (dotted: with the teacher's part)", ylabel="share of time that is students", ylim=(0, 1))
    share.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path

"""The bench's sweep as a picture."""

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

"""One picture of an evaluation, for a README or a dataset card: what students answered right, arm by arm."""

from pathlib import Path

from curation.evaluation.records import Arm, EvaluationResult

PICTURE_FILE = "evaluation/arms.png"
INK, ACCENT, FAINT = "#4a4f55", "#0072b2", "#9aa0a6"
"""Of arms, of the trained teacher, and of arms outside the equal comparison; told apart in grey as well."""


def write_picture(result: EvaluationResult, run_dir: Path) -> Path:
    """Writes `run_dir/evaluation/arms.png`, a panel a student: accuracy on held-out questions with its 95% interval,
    the best arm on top. Returns its path."""
    from matplotlib.figure import Figure

    rows = max(len(student.arms) for student in result.students.values())
    figure = Figure(figsize=(4.6 * len(result.students) + 0.6, 0.27 * rows + 1.1), layout="constrained")
    for axes, (label, student) in zip(figure.subplots(1, len(result.students), squeeze=False)[0],
                                      result.students.items(), strict=True):  # fmt: skip
        shown = {name: arm for name, arm in student.arms.items() if arm.together.accuracy is not None}
        order = sorted(shown, key=lambda name: _accuracy(shown[name]))
        for place, name in enumerate(order):
            found = shown[name].together.accuracy
            assert found is not None
            trained = name.startswith("trained")
            colour = ACCENT if trained else INK if shown[name].equal_tokens else FAINT
            if found.low is not None and found.high is not None:
                axes.plot([max(0.0, found.low), min(1.0, found.high)], [place, place], color=colour, lw=1.6)
            axes.plot(found.mean, place, "D" if trained else "o", color=colour, ms=6 if trained else 4.5)
            axes.annotate(f"{found.mean:.2f}", (1.04, place), va="center", fontsize=8, color=colour)
        axes.set_yticks(range(len(order)), [shown[name].words for name in order], fontsize=8)
        for tick, name in zip(axes.get_yticklabels(), order, strict=True):
            tick.set_color(ACCENT if name.startswith("trained") else "black")
        axes.set(xlim=(-0.03, 1.16), title=label)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(axis="x", color="#e3e6e8", lw=0.7)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("held-out questions answered right, with 95% interval", fontsize=8)
    path = run_dir / PICTURE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, facecolor="white")
    return path


def _accuracy(arm: Arm) -> float:
    assert arm.together.accuracy is not None
    return arm.together.accuracy.mean

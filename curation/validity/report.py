"""What `notewright validity` found, as tables and as a picture."""

from collections.abc import Sequence
from pathlib import Path

from configs.format import interval, number, quantity
from curation.console.tables import Table, print_tables, stdout_console
from curation.validity.verdicts import Figures

LEAST_SECONDS = 1e-2
"""Where the picture puts what costs nothing: its axis is logarithmic."""
COLOURS = {
    "loglik": "#0072b2", "contrast": "#d55e00", "choice": "#009e73", "recall": "#cc79a7", "bits": "#e69f00",
    "self_certainty": "#56b4e9", "majority": "#7f3c8d",
    None: "#4a4f55",
}  # fmt: skip
"""Numbers and the markers of `MARKERS` also tell them apart."""
MARKERS = {"document": "o", "shared": "s", None: "^"}


WORDS = {
    "all": "every one", "screen": "those that it leaves", "random": "as many by chance",
    "shuffled": "by a screen of shuffled outcomes",
}  # fmt: skip


def print_validity(
    results: Sequence[Figures], target: Figures, screened: Sequence[Figures] | None, recommendation: str,
    paths: Sequence[Path],
) -> None:  # fmt: skip
    """The table by rising regret, what a screen would have saved, what is known of the target, and the recommendation,
    to stdout."""
    console = stdout_console()
    rows = [[result["name"], *_cells(result)] for result in results]
    if target["another_run"] is not None:
        rows += [[], [target["another_run"]["name"], *_cells(target["another_run"])]]
    head = ["signal", "regret", "rank correlation", "p (Holm)", "corrected", "tokens", "seconds"]
    print_tables(console, Table(head, rows, title="How well signals predict the target within documents"))
    if screened:
        rows = [
            [f"{s['way']}: {WORDS[s['way']]}", f"{s['tokens']:.2f}", f"{s['later']:.2f}", f"{s['on']:.0%}",
             interval(*s["regret"]), interval(*s["minus_all"][:3], sign=True) if s["minus_all"] else ""]
            for s in screened
        ]  # fmt: skip
        head = ["lessons taught", "tokens", "tokens later", "left out", "regret", "minus all"]
        print_tables(console, Table(head, rows, title="What reward.screen would have saved, and cost"))
    one = target["one_run"]
    told, untold = ([r for r in results if bool(r["cannot_be_told"]) is which] for which in (False, True))
    silent = ", ".join(f"{r['silent']} ({r['name']})" for r in told if r["silent"])
    of_one = interval(one["reliability"], one["low"], one["high"])
    of_mean = number(target["mean_reliability"]) + (f" ({one['reason']})" if one["reason"] else "")
    lines = [
        f"target: {target['words']}; reliability of one run {of_one}, of the mean of {target['runs']} {of_mean}",
        *(f"cannot be told: {r['name']} ({r['cannot_be_told']})" for r in untold),
        *([f"documents that say nothing about a correlation: {silent}"] if silent else []),
        recommendation,
        *(f"written to {path}" for path in paths),
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _cells(result: Figures) -> list[str]:
    seconds = "-" if result["seconds"] is None else f"{result['seconds']:.2g}"
    cost = ["-", "-"] if result["kind"] == "target" else [quantity(result["tokens"]), seconds]
    if result["cannot_be_told"]:
        return ["cannot be told", "-", "-", "-", *cost]
    p = "<0.001" if result["p_holm"] is not None and result["p_holm"] < 0.001 else number(result["p_holm"], 3)
    return [interval(*result["regret"]), interval(*result["correlation"]), p, interval(*result["corrected"]), *cost]


def write_plot(results: Sequence[Figures], target: Figures, path: Path) -> Path | None:
    """Writes a PNG: rank correlation with its interval against seconds a rewrite. None, and no file, where no signal
    has both."""
    from matplotlib.figure import Figure

    shown = [result for result in results if result["seconds"] is not None and result["correlation"][0] is not None]
    if not shown:
        return None
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="gray", lw=0.8)
    if target["mean_reliability"]:
        axes.axhline(
            target["mean_reliability"]**0.5, color="gray", ls=":",
            label="most that a signal can have beside a target of this noise",
        )  # fmt: skip
    for place, result in enumerate(shown, start=1):
        mean, low, high = result["correlation"]
        assert mean is not None
        # Signals of the same students cost the same: they stand a little apart.
        seconds = max(LEAST_SECONDS, result["seconds"] or 0.0) * 1.1 ** (place % 5 - 2)
        errors = None if low is None or high is None else [[mean - low], [high - mean]]
        axes.errorbar(
            seconds, mean, yerr=errors, fmt=MARKERS[result["credit"]], color=COLOURS[result["measure"]], capsize=2,
            label=f"{place} {result['name']}",
        )  # fmt: skip
        axes.annotate(str(place), (seconds, mean), textcoords="offset points", xytext=(4, 4), fontsize=7)
    axes.set(
        xscale="log", xlabel="seconds a rewrite", ylabel="rank correlation with the target, within documents",
        title=target["words"],
    )  # fmt: skip
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial.png")
    figure.savefig(partial, dpi=120)
    partial.replace(path)
    return path

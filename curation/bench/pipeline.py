"""`notewright bench curate`: what the pipeline itself costs, with an echo in the teacher's place.

    notewright bench curate --rows 100000 --json

A corpus with known faults is generated and curated by `configs/curate-echo.yaml` with the settings below, at several
sizes, each in a process of its own. Every row is looked for afterwards: the manifest must count what was put in, and
each row must stand exactly once in the dataset, the quarantine or among the filtered.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import configs
from configs.errors import RunError
from configs.load import load_config
from configs.processes import cpu_seconds, die_with_parent
from curation.bench.pipeline_corpus import Corpus, row_places, write_corpus
from curation.pipeline.manifest import read_manifest

CONFIG = Path(configs.__file__).parent / "curate-echo.yaml"
SETTINGS = ("curation.dedup=exact", "curation.filters.ftfy=true", "curation.filters.secrets=true",
            "curation.filters.pii=true")  # fmt: skip
"""On top of the steps that always run: preflight, decontamination, gates, leak check, merger."""

STEPS: dict[str, tuple[str, ...]] = {
    "ftfy": ("curation.filters.ftfy=true",),
    "secrets": ("curation.filters.secrets=true",),
    "pii": ("curation.filters.pii=true",),
    # The generated words are of no language; py3langid takes them for Esperanto.
    "languages": ("curation.filters.languages=[eo,bs]", "curation.filters.min_language_probability=0"),
    "gopher_repetition": ("curation.filters.gopher_repetition=true",),
    "gopher_quality": ("curation.filters.gopher_quality=true",),
    "dedup exact": ("curation.dedup=exact",),
    "dedup minhash": ("curation.dedup=minhash",),
}
STEP_ROWS = 2000
ROWS = {"documents_in": "rows_in", "documents_out": "rows_out", "filtered": "rows_filtered",
        "quarantined": "rows_quarantined", "failed": "rows_failed"}  # fmt: skip
"""Counts of rows, by their key in the manifest: with one rewrite a document these are its documents."""
TARGETS = {"ms_per_document": 5.0, "peak_memory_mb": 1500.0}


def run_bench(
    rows: int, *, steps: bool = False, vllm: bool | None = False, progress: Callable[[str], object] = print
) -> dict[str, Any]:
    """Curates `rows` rows, a quarter and a sixteenth of them; returns the measurements, which `table` shows.

    `ms_per_document` is CPU time (user and system, all processes) of the curation at one worker, without the start of
    Python and its imports. `steps` also measures each step by itself, `vllm` the teacher's pace (curation.bench.vllm):
    None does so where vLLM and the model are installed. Raises RunError if a row is missing, doubled or miscounted.
    """
    points = []
    for size in sorted({max(100, rows // 16), max(100, rows // 4), rows}):
        points.append(last := measure(size, SETTINGS))
        progress(
            f"{size} rows: {last['ms_per_document']:.2f} ms of CPU a document, {last['rows_per_second']:.0f} rows/s,"
            f" {last['peak_memory_mb']:.0f} MB"
        )
    names = ("ms_per_document", "rows_per_second", "tokens_per_second", "tokens_per_document", "peak_memory_mb")
    result: dict[str, Any] = {
        **{name: last[name] for name in (*ROWS.values(), *names)},
        "rows_exact": True,
        "memory_growth_mb": last["peak_memory_mb"] - points[0]["peak_memory_mb"],
        "linearity": _linearity(points),
        "within_targets": {name: last[name] <= most for name, most in TARGETS.items()},
        "settings": list(SETTINGS),
        "machine": f"{os.cpu_count()} cores, 1 worker",
        "sizes": points,
    }
    if steps:
        # What each step adds to a curation without optional steps.
        plain = measure(STEP_ROWS, (), exact=False)["ms_per_document"]
        result["step_ms"] = {"none": plain}
        for name, settings in STEPS.items():
            cost = measure(STEP_ROWS, settings, exact=False)["ms_per_document"] - plain
            result["step_ms"][name] = cost
            progress(f"{name}: {cost:+.2f} ms a document")
    return result | _measure_vllm(vllm, progress)


def measure(rows: int, settings: tuple[str, ...], *, exact: bool = True) -> dict[str, Any]:
    """One curation of a generated corpus in a fresh process, with its costs; `exact` looks for every row after it."""
    with tempfile.TemporaryDirectory(prefix="notewright-bench-") as name:
        folder = Path(name)
        corpus, output = write_corpus(folder, rows), folder / "dataset"
        overrides = [
            f"curation.input={corpus.folder}", f"curation.output={output}", f"run.dir={folder / 'run'}",
            f"curation.benchmarks=[file:{corpus.quiz}]", *settings,
        ]  # fmt: skip
        measured = _curate_in_a_process(overrides, folder / "figures.json")
        counts = check_rows(output, corpus) if exact else {"rows_in": rows}
        tokens = read_manifest(output)["tokens"]
    return {
        **counts,
        **measured,
        "ms_per_document": 1000 * measured["cpu_seconds"] / rows,
        "rows_per_second": rows / measured["seconds"],
        "tokens_per_second": tokens / measured["seconds"],
        "tokens_per_document": tokens / max(1, counts.get("rows_out", rows)),
    }


def check_rows(output: Path, corpus: Corpus) -> dict[str, int]:
    """The counts of a finished dataset, after they were compared with the corpus and with the rows that are there.

    Raises RunError with the difference unless all counts are those of the corpus, and every row of every file stands
    exactly once in the dataset, the quarantine or among the filtered.
    """
    manifest = read_manifest(output)
    counts = {name: sum(file[key] for file in manifest["files"]) for key, name in ROWS.items()}
    out = corpus.rows - corpus.filtered - corpus.quarantined
    expected = dict(zip(counts, (corpus.rows, out, corpus.filtered, corpus.quarantined, 0), strict=True))
    places = row_places(output, manifest)
    passages = sum(file["passages"]["out"] for file in manifest["files"])
    if counts != expected or manifest["rows"] != passages or not len(places) == len(set(places)) == corpus.rows:
        raise RunError(
            f"the curated rows are not exact: expected {expected}, the manifest says {counts} with {manifest['rows']}"
            f" rows; {len(places)} records of {len(set(places))} rows were found"
        )
    return counts


def _linearity(points: list[dict[str, Any]]) -> dict[str, float | None]:
    """How CPU seconds grow with rows: cost a document at the largest size over that at the smallest, and the
    least-squares line with the largest distance of a point from it, as a share of the point."""
    if len(points) < 2:
        return {"ratio": None, "slope_ms": None, "fixed_seconds": None, "worst_residual": None}
    rows = np.array([point["rows_in"] for point in points], dtype=float)
    seconds = np.array([point["cpu_seconds"] for point in points])
    slope, fixed = np.polyfit(rows, seconds, 1)
    return {
        "ratio": float(points[-1]["ms_per_document"] / points[0]["ms_per_document"]),
        "slope_ms": float(1000 * slope),
        "fixed_seconds": float(fixed),
        "worst_residual": float(np.max(np.abs(slope * rows + fixed - seconds) / seconds)),
    }


def _measure_vllm(wanted: bool | None, progress: Callable[[str], object]) -> dict[str, Any]:
    from curation.bench.vllm import measure, missing_requirement

    problem = "--no-vllm" if wanted is False else missing_requirement() if wanted is None else None
    if problem is not None:
        return {"vllm_ratio": None, "vllm_note": f"not measured: {problem}"}
    progress("the teacher through vLLM, against bare vLLM on the same prompts")
    return measure(progress)


def _curate_in_a_process(overrides: list[str], figures: Path) -> dict[str, float]:
    """Curates in a process of its own; returns what it measured of itself, and its memory as seen from here: resident
    memory of the process and all below it. Pages that they share count for each."""
    command = [sys.executable, "-m", "curation.bench.pipeline", str(figures), *overrides]
    peak_bytes = 0
    with tempfile.TemporaryFile() as errors:
        child = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        while child.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                family = (child, *child.children(recursive=True))
                peak_bytes = max(peak_bytes, sum(process.memory_info().rss for process in family))
            time.sleep(0.02)
        if child.returncode:
            errors.seek(0)
            last = (errors.read().decode(errors="replace").strip().splitlines() or ["no message"])[-1]
            raise RunError(f"the curation that was measured ended with code {child.returncode}: {last}")
    measured = json.loads(figures.read_bytes())
    own_peak_mb = measured.pop("own_peak_mb")
    return measured | {"peak_memory_mb": max(peak_bytes / 1e6, own_peak_mb)}


def _child(figures: Path, overrides: list[str]) -> None:
    """The work of the fresh process: curates, and writes what it took."""
    from curation.pipeline.curate import curate

    die_with_parent()
    config = load_config(CONFIG, overrides)
    start_cpu, start_memory, start = cpu_seconds(), psutil.Process().memory_info().rss, time.perf_counter()
    curate(config)
    seconds = time.perf_counter() - start
    # Not getrusage: its peak begins with the memory of the process that forked this one.
    peak_kb = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    measured = {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds() - start_cpu,
        "start_cpu_seconds": start_cpu,
        "start_memory_mb": start_memory / 1e6,
        "own_peak_mb": peak_kb * 1024 / 1e6,
    }
    figures.write_text(json.dumps(measured))


def table(result: dict[str, Any]) -> str:
    """The measurements as lines to read."""
    lines = ["   rows  ms/document  rows/s  tokens/s  peak MB"]
    lines += [
        f"{p['rows_in']:7}  {p['ms_per_document']:11.2f}  {p['rows_per_second']:6.0f}  {p['tokens_per_second']:8.0f}"
        f"  {p['peak_memory_mb']:7.0f}"
        for p in result["sizes"]
    ]
    line = result["linearity"]
    if line["ratio"] is not None:
        lines.append(
            f"cost a document at the largest over the smallest size: {line['ratio']:.2f}; line: {line['slope_ms']:.2f}"
            f" ms a document and {line['fixed_seconds']:.2f} s, at most {line['worst_residual']:.0%} off"
        )
    lines.append(
        f"every row once: {result['rows_in']} in = {result['rows_out']} out + {result['rows_filtered']} filtered +"
        f" {result['rows_quarantined']} quarantined + {result['rows_failed']} failed"
    )
    lines += [f"  {name:18} {cost:+6.2f} ms a document" for name, cost in result.get("step_ms", {}).items()]
    ratio = result["vllm_ratio"]
    lines.append(f"vLLM: {result['vllm_note']}" if ratio is None else f"of bare vLLM's speed: {ratio:.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    _child(Path(sys.argv[1]), sys.argv[2:])

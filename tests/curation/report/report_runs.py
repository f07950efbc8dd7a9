"""Run directories as `train` and `evaluate` leave them, with invented figures: what a report is tested on."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from configs.load import load_config, save_config
from configs.schema import Config
from curation.corpus.finding import find_shards
from curation.corpus.training_data import training_id
from curation.evaluation import records
from curation.evaluation.records import LESSON_COLUMNS, LESSONS_FILE, RESULT_FILE
from teacher.run.journal import Journal

DOCUMENT = "Ada Byron was born in Oslo. On sundays pottery is what she likes best."
LESSONS = {"copy": DOCUMENT, "question-answer": "Where was Ada Byron born? Oslo. <b> & what does she like? pottery."}
ARMS = {
    "none": ("no training", 0.0, False),
    "raw": ("the documents", 0.6, False),
    "raw-repeated": ("the documents, repeated to equal tokens", 0.9, True),
    "untrained": ("the untrained teacher", 1.1, True),
    "question-answer": ("question-answer lessons alone", 1.9, True),
    "wrong": ("wrong facts", 0.05, True),
    "ensemble": ("seven fixed prompts (arXiv 2603.22213)", 1.7, True),
    "trained": ("the trained teacher", 2.0, True),
}
STUDENTS = ("student-fixed", "student-augmented")


def interval(name, mean, half):
    return {f"{name}/mean": mean, f"{name}/low": mean - half, f"{name}/high": mean + half}


def in_measures(gain, half):
    """Of an evaluation that rewards contrast: half the gain is of form, which loglik holds too."""
    measures = {"gain": gain, "gain/contrast": gain, "gain/loglik": 2 * gain, "gain/choice": gain / 4}
    return {key: value for name, mean in measures.items() for key, value in interval(name, mean, half).items()}


def new_run(folder: Path) -> Path:
    """A run directory with its config alone; its document lies in a file beside it."""
    data = folder / "people.jsonl"
    data.write_text(json.dumps({"text": DOCUMENT, "questions": [{"question": "Where?", "answer": "Oslo"}]}) + "\n")
    settings = {
        "run": {"dir": folder / "run"},
        "reward": {"measure": "contrast"},
        "data": {"train": [str(data)]},
        "curation": {"output": folder / "none"},
    }
    save_config(Config.model_validate(settings), folder / "run" / "config.yaml")
    return folder / "run"


def full_run(folder: Path) -> Path:
    """Trained, evaluated, and with a teacher of its own for one of the students: everything that a page can show."""
    run = new_run(folder)
    add_training(run, rounds=4)
    add_evaluation(run)
    own = run / "teachers" / STUDENTS[0]
    save_config(load_config(run / "config.yaml"), own / "config.yaml")
    add_training(own, rounds=2, heldout=False)
    return run


def add_training(run: Path, rounds: int = 3, heldout: bool = True) -> None:
    """A journal of as many rounds, written as a run writes it."""
    [shard] = find_shards(load_config(run / "config.yaml").data.train)
    name = training_id(shard, 0, DOCUMENT)
    with Journal(run) as journal:
        for step in range(1, rounds + 1):
            shares = {"strategy/copy": 1 - step / 4, "strategy/question-answer": step / 4, "gates/leak": step}
            gains = {"gain/loglik": 0.2 * step, "gain/contrast": 0.1 * step, "gain/choice": 0.05 * step}
            gains |= {"gain_by_strategy/copy": 0.2, "gain_by_strategy/question-answer": 1.5}
            varied = {"diversity/compression_ratio": 2.0 + step / 9, "diversity/distinct_strategies": 2}
            cost = {"students": 8, "students_total": 10 * step, "seconds": 1.5, "reward/reliability": 0.6 + step / 10}
            line = {"kind": "step", "round": step, "step": step, **interval("reward", step / 2, 0.1)}
            journal.metric(line | shares | gains | varied | cost)
            for sample, (strategy, text) in enumerate(LESSONS.items()):
                scored = {"reward": sample, "gain": float(sample), "rejected": None}
                place = {"arm": "train", "round": step, "step": step, "document_id": name, "sample": sample}
                journal.rewrites.append(place | {"strategy": strategy, "text": text} | scored)
            refused = {"reward": -1.0, "gain": None, "rejected": "leak", "strategy": "copy", "text": "leaked"}
            journal.rewrites.append({**place, "sample": 2} | refused)
            journal.metric({"kind": "update", "round": step, "seconds": 2.0})
        for round in range(rounds + 1):
            figures = in_measures(0.1 * (round + 1), 0.1) | interval("accuracy", 0.2, 0.1) | {"documents": 16}
            journal.metric({"kind": "validation", "round": round, "students": 2, **figures})
        for arm, gain in (("raw", 0.5), ("untrained", 0.4), ("trained", 1.4)) if heldout else ():
            figures = in_measures(gain, 0.2) | interval("accuracy", gain / 2, 0.1)
            journal.metric({"kind": "heldout", "round": 0, "arm": arm, "documents": 12, **figures})
            if arm != "raw":
                place = {"arm": arm, "round": 0, "step": 0, "document_id": "h", "sample": 0}
                journal.rewrites.append(place | {"strategy": "copy", "rejected": None, "text": f"Ada by the {arm} one"})
        differences = interval("trained_minus_raw", 0.9, 0.3) | interval("trained_minus_untrained", 0.1, 0.3)
        differences |= interval("loglik_minus_raw", 2.5, 0.4) | interval("choice_minus_raw", 0.2, 0.1)
        if heldout:
            journal.metric({"kind": "difference", "round": rounds, **differences})


def add_evaluation(run: Path) -> records.EvaluationResult:
    """evaluation.json and its lessons, with everything in them that a page can show."""
    students = {label: _student(shift) for shift, label in enumerate(STUDENTS)}
    found = records.EvaluationResult(
        measure="contrast", documents=48, documents_per_student=8, seeds=3, steps=40, tokens_per_step=400, rewrites=5,
        reference="raw-repeated", students=students,
        correction=records.Correction(
            method="holm", level=0.05, families={"together/gain": 12, "together/accuracy": 12}
        ),
        student_runs=1234, seconds=987.6, notes=["Answers are graded by greedy decoding."],
    )  # fmt: skip
    (run / RESULT_FILE).write_text(found.model_dump_json(indent=1))
    lessons = [
        {
            "student": label, "arm": arm, "document_id": f"p{n}", "document": f"Person {n} lives in Rome.",
            "texts": [f"{arm} says Person {n} lives in Rome.", "Where does the person live? Rome."],
            "strategies": ["copy", "question-answer"], "rejected": [], "gain": 0.5 * n, "accuracy": 0.5,
        }
        for label in STUDENTS
        for arm in ("untrained", "trained")
        for n in range(4)
    ]  # fmt: skip
    (run / LESSONS_FILE).parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(lessons, LESSON_COLUMNS), run / LESSONS_FILE)
    return found


def measured(gain: float) -> dict[str, records.Estimate]:
    """A gain in contrast beside those in the other measures, see `in_measures`."""
    return {"loglik": figure(2 * gain), "contrast": figure(gain), "choice": figure(gain / 4, 0.05)}


def figure(mean: float, half: float = 0.15, n: int = 48, clusters: int = 6) -> records.Estimate:
    return records.Estimate(mean=mean, low=mean - half, high=mean + half, n=n, clusters=clusters)


def _measured(gain: float) -> records.ArmEstimates:
    return records.ArmEstimates(
        gain=figure(gain), measures=measured(gain), accuracy=figure(min(0.98, gain / 2.1), 0.02),
        benchmarks={"arc-easy": figure(0.01, 0.04, 6)}, benchmark_accuracies={},
        retention_loss=figure(0.1 + gain / 9, 0.03, 6), retention_accuracy=figure(0.8, 0.05, 6),
        steps=40, tokens=16000, tokens_least=15990, tokens_most=16010, planned_tokens=16000,
        as_planned=True, failed=0,
    )  # fmt: skip


def _student(shift: int) -> records.StudentResult:
    chance = random.Random(shift)
    arms = {
        name: records.ArmResult(
            words=words, equal_tokens=equal, lesson_tokens=40.0 * (n + 1), texts=5.0, rejected=n, overlap=0.1 * n,
            strategies={"question-answer": 0.7, "copy": 0.3}, together=_measured(gain + 0.3 * shift),
            single=_measured(gain),
        )
        for n, (name, (words, gain, equal)) in enumerate(ARMS.items())
    }  # fmt: skip
    comparisons = []
    for name in ("untrained", "question-answer", "wrong", "ensemble", "trained"):
        for measure in ("gain", "accuracy"):
            difference = ARMS[name][1] - ARMS["raw-repeated"][1]
            sure = abs(difference) > 0.3
            verdict = ("better" if difference > 0 else "worse") if sure else "no detectable difference"
            comparisons.append(
                records.Comparison(
                    measure=measure, setting="together", arm=name, against="raw-repeated",
                    difference=figure(difference, 0.25),
                    measures=measured(difference) if measure == "gain" else {},
                    p=0.0001 if sure else 0.2, p_corrected=0.0004 if sure else 0.6, detectable=0.31, verdict=verdict,
                )
            )  # fmt: skip
    scaling = {
        name: [
            records.ScalingPoint(
                rewrites=n, lesson_tokens=40.0 * n, overlap=overlap * (1 - 1 / n),
                gain=figure(1 + slope * k + chance.uniform(0, 0.1)), measures=measured(1 + slope * k),
                accuracy=figure(0.5 + 0.4 * slope * k, 0.03),
            )
            for k, n in enumerate((1, 2, 4, 8))
        ]
        for name, slope, overlap in (("raw-repeated", 0.02, 1.0), ("trained", 0.1, 0.6), ("ensemble", 0.3, 0.2))
    }  # fmt: skip
    return records.StudentResult(
        model=f"models/{STUDENTS[shift]}", teacher="runs/x/teacher/checkpoint-3", arms=arms, comparisons=comparisons,
        scaling=scaling, sequences=[_edits(0.0), _edits(0.5)],
        replay_effect=records.ReplayEffect(studied=[share(0.02 * i) for i in range(6)], retention_accuracy=None),
    )  # fmt: skip


def _edits(replay: float, edits: int = 6) -> records.EditSequences:
    forgets = 0.15 if not replay else 0.04
    accuracy = [
        [0.06 if j >= i else max(0.1, 0.95 - forgets * (i - j - 1)) for j in range(edits)] for i in range(edits + 1)
    ]
    cells = [[share(value) for value in row] for row in accuracy]
    studied = [sum(row[:i]) / i for i, row in enumerate(accuracy) if i]
    return records.EditSequences(
        arm="question-answer", replay=replay, sequences=8, accuracy=cells,
        studied=[share(value) for value in studied], studied_unedited=[share(0.06)] * edits,
        studied_difference=[share(value - 0.06) for value in studied],
        retention_accuracy=[share(0.9 - forgets * i / 2) for i in range(edits + 1)],
    )  # fmt: skip


def share(mean: float) -> records.Estimate:
    wide = figure(mean, 0.04, 8, 8)
    assert wide.low is not None and wide.high is not None
    return wide.model_copy(update={"low": max(0.0, wide.low), "high": min(1.0, wide.high)})

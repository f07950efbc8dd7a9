"""`notewright bench selection --lab`: what a screen saves and costs, with the lab's real students.

Two training runs of equal rounds and seeds: one teaches all lessons, the other those that its screen finds promising.
What the trained teachers write about the held-out people is then taught to fresh students. And of `SAMPLES` lessons of
each held-out person, by the untrained and by the trained teacher, the one that the run's fitted screen predicts best
(`curation.best_of`) is held against the mean of all: all are taught.

The analysis was fixed before the first run. Differences are paired by person, and their 95% intervals draw the batches
of people that share students.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import configs
from configs.files import read_json_lines, read_own, write_whole
from configs.format import interval, quantity, without_nan
from configs.load import load_config
from configs.schema import Config
from configs.seeds import stable_seed
from curation.bench.lab.run import arm_values, new_rewards
from curation.console.progress import say
from curation.console.workers import run_side_by_side
from curation.corpus.training_data import read_splits
from curation.lab.build import build_lab
from curation.report.cost import taught_students
from student.pools import make_pool
from student.records import Document
from teacher.gates.checks import build_gates
from teacher.records import Rewrite
from teacher.reward.best_of import FittedScreen, read_screen
from teacher.reward.evaluation import crossed_test
from teacher.reward.signs import Texts
from teacher.run.checkpoints import SCREEN_FILE, best_checkpoint
from teacher.sampling import Sampling, sample_rewrites
from teacher.training.context import evaluation_seeds, taught
from teacher.training.loop import train_teacher
from teacher.writers.local import load_teacher

CONFIG = Path(configs.__file__).parent / "lab.yaml"
SHARED = ("rl.group_size=16", "rl.documents_per_round=32")
ARMS = {"all": (), "screened": ("reward.screen.signs=[contained,length,overlap]", "reward.screen.share=0.15")}
"""Settings of the runs."""
PEOPLE = 64
"""Held-out people whose samples are taught."""
SAMPLES = 4


def run_screened(folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Runs what is missing in `folder`, a run a core. Raises what the first run that fails raises; training goes on
    where it stopped."""
    build_lab(load_config(CONFIG, overrides).lab, progress=say)
    tasks = {name: partial(run_arm, name, folder, tuple(overrides)) for name in ARMS}
    arms = run_side_by_side(tasks, kept="finished rounds are kept")
    everything, screened = (arms[name]["heldout"] for name in ARMS)
    names = everything["gains"].keys() & screened["gains"].keys()
    difference, p = crossed_test(
        [{name: screened["gains"][name] - everything["gains"][name] for name in names}], everything["batches"]
    )
    return without_nan({
        "arms": {name: {k: v for k, v in arm.items() if k != "heldout"} for name, arm in arms.items()},
        "tokens": arms["screened"]["tokens"] / arms["all"]["tokens"],
        "screened_minus_all": [*difference, p],
    })  # fmt: skip


def run_arm(name: str, folder: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Trains a run and measures its teachers, and keeps what was found."""
    path = folder / name / "result.json"
    if path.is_file():
        return read_own(path, dict)
    lab = load_config(CONFIG, overrides).lab.dir
    places = [f"data.{part}=[{lab}/shards/{part}.jsonl]" for part in ("train", "heldout")]
    places += [f"teacher.model={lab}/teacher", f"student.model={lab}/student-fixed", f"run.dir={folder / name}"]
    config = load_config(CONFIG, [*SHARED, *ARMS[name], *places, *overrides])
    train, heldout = read_splits(config)
    train_teacher(config, train, [], make_pool, lambda line: say(f"{name}: {line}"))
    # Nothing else has used this journal: these are the students of the rounds.
    students, tokens, _ = taught_students(config.run.dir / "journal" / "outcomes.sqlite")
    lines = read_json_lines(config.run.dir / "journal" / "metrics.jsonl")
    screen = read_screen(config.run.dir / "teacher" / SCREEN_FILE)
    trained = best_checkpoint(config.run.dir)
    with new_rewards(config, heldout) as rewards:
        groups = _written(config, heldout, trained, config.rl.evaluation_lessons, config.teacher.evaluation_temperature)
        seeds = evaluation_seeds(config, "heldout")
        evaluation = rewards.evaluate(heldout, taught(groups, config.rl.rewrites_per_lesson), seeds)
        result = {
            "students": students,
            "tokens": tokens,
            "students_by_round": [line["students"] for line in lines if line["kind"] == "step"],
            "screen_on": [line["screen/on"] for line in lines if "screen/on" in line],
            "gain": list(evaluation.gain),
            "accuracy": list(evaluation.accuracy),
            "heldout": arm_values(evaluation),
            "fitted": {"correlation": list(screen.correlation), "documents": screen.documents},
        }
        for teacher, checkpoint in (("untrained", None), ("trained", trained)):
            groups = _written(config, heldout[:PEOPLE], checkpoint, SAMPLES, None)
            gains_DG = [[list(r.gains) for r in of_one] for of_one in rewards.score(groups)]
            result[f"best_of_{teacher}"] = best_of(
                screen, heldout[:PEOPLE], groups, gains_DG, config.reward.documents_together
            )
    write_whole(path, json.dumps(result) + "\n")
    return result


def _written(
    config: Config, documents: Sequence[Document], checkpoint: Path | None, rewrites: int, temperature: float | None
) -> list[list[Rewrite]]:
    writer = load_teacher(config.teacher, checkpoint).at(temperature)
    gates = build_gates(config.gates, config.teacher, writer.tokenizer, (), config.student.prompt_template)
    sampling = Sampling(rewrites=rewrites, seed=stable_seed(config.run.seed, "bench screened"))
    return sample_rewrites(writer, documents, sampling, gates)


def best_of(
    screen: FittedScreen,
    documents: Sequence[Document],
    groups: Sequence[Sequence[Rewrite]],
    gains_DG: Sequence[Sequence[Sequence[float]]],
    together: int,
) -> dict[str, Any]:
    """How much the rewrite that the screen predicts best gained above the mean of its document's, with the 95% interval
    and p; how much the truly best did; how often the prediction's interval held what was gained. `gains_DG` are each
    rewrite's students, none where a gate refused it."""
    leads: dict[str, float] = {}
    best: list[float] = []
    held: list[bool] = []
    for document, group, gains_G in zip(documents, groups, gains_DG, strict=True):
        shown = [(rewrite, statistics.fmean(gains)) for rewrite, gains in zip(group, gains_G, strict=True) if gains]
        if len(shown) < 2:
            continue
        texts, strategies = [rewrite.text for rewrite, _ in shown], [rewrite.strategy for rewrite, _ in shown]
        [signs] = screen.read([Texts(document, tuple(texts))], [strategies], None)
        predicted = screen.predict(signs)
        chosen = max(range(len(shown)), key=lambda i: predicted[i].gain)
        mean = statistics.fmean(gain for _, gain in shown)
        leads[document.id] = shown[chosen][1] - mean
        best.append(max(gain for _, gain in shown) - mean)
        held.append(abs(leads[document.id] - predicted[chosen].gain) <= predicted[chosen].error)
    lead, p = crossed_test([leads], {document.id: d // together for d, document in enumerate(documents)})
    return {
        "documents": len(leads), "lead": [*lead, p], "best_lead": statistics.fmean(best),
        "interval_held": statistics.fmean(held),
    }  # fmt: skip


def table(result: Mapping[str, Any]) -> str:
    """The figures as lines to read."""
    lines = []
    for name, arm in result["arms"].items():
        rounds = ", ".join(f"{students}" for students in arm["students_by_round"])
        lines.append(
            f"{name:8} {quantity(arm['tokens'])} lesson tokens, {arm['students']} students (by round {rounds});"
            f" held-out gain {interval(*arm['gain'])}, accuracy {interval(*arm['accuracy'])}"
        )
    lines.append(f"tokens {result['tokens']:.2f}, gain {interval(*result['screened_minus_all'][:3], sign=True)} to all")
    for name, arm in result["arms"].items():
        fitted = f"r {interval(*arm['fitted']['correlation'])} on {arm['fitted']['documents']} documents"
        lines.append(f"best of {SAMPLES} by the screen of {name} ({fitted}), above the mean of the {SAMPLES}:")
        for teacher in ("untrained", "trained"):
            found = arm[f"best_of_{teacher}"]
            lines.append(
                f"  {teacher:9} {interval(*found['lead'][:3], sign=True)} of at most {found['best_lead']:.2f}; the"
                f" prediction's interval held {found['interval_held']:.0%} of {found['documents']}"
            )
    return "\n".join(lines)

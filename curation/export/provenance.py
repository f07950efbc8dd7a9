"""The models behind a dataset and their measured gains, from the run that made it, for the cards."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi, ModelCard, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
from huggingface_hub.hf_api import ModelInfo

from configs.errors import UserError
from configs.files import read_json_lines
from configs.format import interval
from configs.load import load_config
from configs.schema import Config
from configs.schema.reward import Measure
from configs.schema.teacher import HEAD
from curation.corpus.licences import UNKNOWN, licence_of
from curation.evaluation.records import read_result
from curation.pipeline.fingerprint import teacher_hash
from student.records import in_measure
from teacher.records import ONE_RUN

ARMS = {"raw": "the raw documents", "untrained": "the untrained teacher", "trained": f"the trained teacher, {ONE_RUN}"}
DIFFERENCES = {other: f"trained ({ONE_RUN}) − {other}" for other in ("untrained", "raw")}


@dataclass(frozen=True, slots=True)
class Model:
    """A model by name, with the licence of its own card, or `unknown`. The Hub does not know a `local` one."""

    name: str
    licence: str
    local: bool


Result = dict[str, str]
"""A line of an evaluation: `arm`, `gain` and `accuracy` (`1.99 [1.08, 2.83]`, empty where not measured), `n`, and what
the gain is `in`: `in loglik (nats a token)`."""


@dataclass(frozen=True, slots=True)
class TeacherRun:
    """The run whose teacher wrote a dataset."""

    dir: Path
    config: Config
    checkpoint: Path | None
    """None: the base model wrote it."""
    data_hash: str | None
    """Names the documents and questions that the teacher was trained and measured on."""
    base: Model
    students: tuple[Model, ...]
    results: tuple[Result, ...]


def find_run(output: Path, manifest: Mapping[str, Any], teacher: Path | None = None) -> TeacherRun | None:
    """The run whose teacher wrote the dataset `output`: the folder `teacher`, else the folder around the dataset if its
    teacher has the manifest's hash, else None. Raises UserError if the teacher of `teacher` did not write it."""
    folder = teacher or output.resolve().parent
    if not (folder / "config.yaml").is_file():
        if teacher:
            raise UserError(f"--teacher {teacher} is no run directory: it has no config.yaml")
        return None
    settings = manifest["settings"]
    try:
        config = load_config(folder / "config.yaml")
        checkpoint = folder / "teacher" / settings["teacher_name"].rpartition("+")[2] if settings["trained"] else None
        if checkpoint is not None and not checkpoint.is_dir():
            raise UserError(f"{folder} has no teacher/{checkpoint.name}, which wrote {output}")
        if teacher_hash(config.teacher.model, checkpoint) != settings["teacher_hash"]:
            raise UserError(f"the teacher of {folder} did not write {output}: their hashes differ")
    except UserError:
        if teacher:
            raise
        return None
    data = folder / "journal" / "data"
    return TeacherRun(
        folder,
        config,
        checkpoint,
        data.read_text().strip() if data.is_file() else None,
        describe_model(config.teacher.model),
        tuple(describe_model(config.teacher.model if m == "teacher" else m) for m in config.student.names if m),
        tuple(_journal_results(folder, config.reward.measure)),
    )


def evaluation_results(output: Path, run: TeacherRun | None) -> tuple[Result, ...]:
    """The results of `evaluation.json` in the dataset's folder, else in its run's: every arm, its documents together.
    Without one those of the run's journal. Raises UserError for a file of another form."""
    for folder in (output, *([run.dir] if run else [])):
        evaluation = read_result(folder)
        if evaluation is None:
            continue
        results = []
        for label, student in evaluation.students.items():
            of_student = f", student {label}" if len(evaluation.students) > 1 else ""
            for name, arm in student.arms.items():
                gain, accuracy = (
                    None if x is None else x.model_dump() for x in (arm.together.gain, arm.together.accuracy)
                )
                n = (gain or accuracy or {}).get("n", "")
                results.append(_result(ARMS.get(name, arm.words) + of_student, gain, accuracy, n, evaluation.measure))
        return tuple(results)
    return run.results if run else ()


def _journal_results(run: Path, measure: Measure) -> list[Result]:
    """The held-out arms and their paired differences, from the last lines of metrics.jsonl that have them."""
    lines = read_json_lines(run / "journal" / "metrics.jsonl")

    def estimate(line: Mapping[str, Any], name: str) -> dict[str, Any]:
        return {part: line.get(f"{name}/{part}") for part in ("mean", "low", "high")}

    arms = {line["arm"]: line for line in lines if line.get("kind") == "heldout"}
    results = [
        _result(label, estimate(line, "gain"), estimate(line, "accuracy"), line.get("documents", ""), measure)
        for arm, label in ARMS.items()
        if (line := arms.get(arm))
    ]
    difference = next((line for line in reversed(lines) if line.get("kind") == "difference"), {})
    for other, label in DIFFERENCES.items():
        gain, accuracy = (estimate(difference, f"{name}_minus_{other}") for name in ("trained", "accuracy"))
        if gain["mean"] is not None:
            results.append(_result(label, gain, accuracy, "", measure))
    return results


def _result(
    label: str, gain: Mapping[str, Any] | None, accuracy: Mapping[str, Any] | None, n: Any, measure: Measure
) -> Result:
    def text(values: Mapping[str, Any] | None, digits: int) -> str:
        if not values or values.get("mean") is None:
            return ""
        return interval(values["mean"], values.get("low"), values.get("high"), digits)

    return {"arm": label, "gain": text(gain, 3), "accuracy": text(accuracy, 2), "n": str(n), "in": in_measure(measure)}


def describe_model(model: str) -> Model:
    """A model folder by its name, a Hub model by its id, with the licence of its card or config.json."""
    folder = Path(model)
    if model == HEAD:
        return Model("a head over features of the document, made of nothing", UNKNOWN, local=True)
    if folder.is_dir():
        return Model(folder.resolve().name, _folder_licence(folder), local=True)
    # The cache is asked first, then the Hub. A card is not worth a failure where neither knows the licence.
    try:
        cached = try_to_load_from_cache(model, "README.md")
        if isinstance(cached, str):
            return Model(model, _folder_licence(Path(cached).parent), local=False)
        info: ModelInfo = HfApi().model_info(model, timeout=10)
        licence = _card_licence(info.card_data)
    except (OSError, httpx.HTTPError, HFValidationError, OfflineModeIsEnabled):
        licence = UNKNOWN
    return Model(model, licence, local=False)


def _folder_licence(folder: Path) -> str:
    if (folder / "README.md").is_file():
        licence = _card_licence(ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data)
        if licence != UNKNOWN:
            return licence
    config = folder / "config.json"
    return licence_of(json.loads(config.read_bytes()), UNKNOWN) if config.is_file() else UNKNOWN


def _card_licence(card: Any) -> str:
    # The Hub has `license: other` and a `license_name` beside it for what has no id there.
    return licence_of({key: card.get(key) for key in ("license", "license_name")}, UNKNOWN) if card else UNKNOWN

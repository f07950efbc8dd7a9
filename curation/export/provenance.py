"""What a dataset folder and the run beside it tell about the models and their measured gains, for the cards."""

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
from configs.load import load_config
from configs.schema import Config
from curation.pipeline.fingerprint import teacher_hash

ARMS = {"raw": "the raw documents", "untrained": "the untrained teacher", "trained": "the trained teacher"}
DIFFERENCES = {"untrained": "trained − untrained", "raw": "trained − raw"}


@dataclass(frozen=True, slots=True)
class Model:
    """A model by name, its licence as its own card has it or `unknown`."""

    name: str
    licence: str
    local: bool
    """Named by its folder: the Hub does not know it."""


@dataclass(frozen=True, slots=True)
class Result:
    """A line of an evaluation: `1.99 [1.08, 2.83]`, empty where it was not measured."""

    arm: str
    gain: str
    accuracy: str
    n: str


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


def find_run(output: Path, manifest: Mapping[str, Any], given: Path | None = None) -> TeacherRun | None:
    """The run whose teacher wrote the dataset `output`: `given`, or else the folder around it if the hash of its
    teacher is the manifest's; None if that is another's.

    Raises UserError if `given` is no run, or its teacher did not write the dataset.
    """
    folder = given or output.resolve().parent
    if not (folder / "config.yaml").is_file():
        if given:
            raise UserError(f"--teacher {given} is no run directory: it has no config.yaml")
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
        if given:
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
        tuple(_journal_results(folder)),
    )


def evaluation_results(output: Path, run: TeacherRun | None) -> tuple[Result, ...]:
    """Of `evaluation.json` in the dataset's folder or its run's, `{"arms": {name: {"gain": {"mean", "low", "high",
    "n"}, "accuracy": ...}}}`; else those of the run's journal. Raises UserError for a file of another form."""
    places = [output / "evaluation.json", *([run.dir / "evaluation.json"] if run else [])]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return run.results if run else ()
    try:
        arms = json.loads(path.read_bytes())["arms"]
        return tuple(
            Result(ARMS.get(name, name), _figure(arm.get("gain")), _figure(arm.get("accuracy"), 2), _count(arm))
            for name, arm in arms.items()
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no evaluation ({type(error).__name__}: {error}): move it away") from None


def _journal_results(run: Path) -> list[Result]:
    """The held-out arms and their paired differences, as the last lines of metrics.jsonl have them."""
    lines = read_json_lines(run / "journal" / "metrics.jsonl")
    arms = {line["arm"]: line for line in lines if line.get("kind") == "heldout"}
    found = [
        Result(
            label,
            _figure(_nested(arms[arm], "gain")),
            _figure(_nested(arms[arm], "accuracy"), 2),
            str(arms[arm].get("documents", "")),
        )
        for arm, label in ARMS.items()
        if arm in arms
    ]
    difference = next((line for line in reversed(lines) if line.get("kind") == "difference"), {})
    for other, label in DIFFERENCES.items():
        gain, accuracy = (_nested(difference, f"{name}_minus_{other}") for name in ("trained", "accuracy"))
        if gain.get("mean") is not None:
            found.append(Result(label, _figure(gain), _figure(accuracy, 2), ""))
    return found


def _nested(line: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {part: line.get(f"{name}/{part}") for part in ("mean", "low", "high")}


def _figure(figure: Mapping[str, Any] | None, digits: int = 3) -> str:
    if not figure or figure.get("mean") is None:
        return ""
    bounds = [figure.get("low"), figure.get("high")]
    interval = "" if None in bounds else " [{:.{d}f}, {:.{d}f}]".format(*bounds, d=digits)
    return f"{figure['mean']:.{digits}f}{interval}"


def _count(arm: Mapping[str, Any]) -> str:
    return str((arm.get("gain") or arm.get("accuracy") or {}).get("n", ""))


def describe_model(model: str) -> Model:
    """A model folder by its name, a Hub model by its id, with the licence of its card or config.json."""
    folder = Path(model)
    if folder.is_dir():
        return Model(folder.resolve().name, _folder_licence(folder), local=True)
    return Model(model, _hub_licence(model), local=False)


def _folder_licence(folder: Path) -> str:
    if (folder / "README.md").is_file():
        licence = ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data.get("license")
        if licence:
            return str(licence)
    config = folder / "config.json"
    return str(json.loads(config.read_bytes()).get("license") or "unknown") if config.is_file() else "unknown"


def _hub_licence(model: str) -> str:
    """Asks the cache, then the Hub; a card is not worth failing for where neither knows."""
    try:
        cached = try_to_load_from_cache(model, "README.md")
        if isinstance(cached, str):
            return _folder_licence(Path(cached).parent)
        info: ModelInfo = HfApi().model_info(model, timeout=10)
    except (OSError, httpx.HTTPError, HFValidationError, OfflineModeIsEnabled):
        return "unknown"
    return str((info.card_data and info.card_data.get("license")) or "unknown")

"""What names a curation run: its shards, its teacher, and everything else that changes the rows.

Read by `curate` for the fingerprint of a run, and by whatever looks at a run before it starts (preview, plan).
"""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from transformers.utils import cached_file

from configs.errors import UserError
from configs.files import write_whole
from configs.load import load_config
from configs.schema import Config
from curation.corpus.decontaminate import BenchmarkIndex
from curation.corpus.shards import Shard, find_shards
from curation.corpus.training_data import read_documents
from curation.pipeline.manifest import WORK
from curation.pipeline.preflight import Checked
from student.benchmarks.sources import DocumentQuestions
from student.engine.model_names import check_available
from student.records import Question
from teacher.prompting.strategies import read_strategy, strategy_label
from teacher.questions.cache import questions_file, read_questions
from teacher.reward.exams import external_questions
from teacher.run.checkpoints import best_checkpoint, latest_checkpoint

FORMAT = 4
"""Version of the rows that this code makes; part of the fingerprint."""
SPEED = ("workers", "executor", "slurm", "ray", "wait")
"""What in `curation` says where and how fast the rows are made, and changes none of them."""
SERVED = {"model", "chat", "body", "context_tokens"}
"""What in `serving` changes the rows."""


def shards_of(config: Config) -> list[Shard]:
    """The input files, one task each. Raises UserError where the config names none, or cannot give what it asks for."""
    if not config.curation.input:
        raise UserError("curation.input names no shards: name JSONL or Parquet files, e.g. curation.input=[a.jsonl]")
    if not config.teacher.model and config.curation.writer == "teacher":
        raise UserError("teacher.model is not set: a folder or a Hub id of a causal language model")
    n = config.curation.rewrites_per_document
    most = _different(sampling_config(config))
    if n > most:
        raise UserError(
            f"curation.rewrites_per_document={n} would write the same text again: at most {most}, or set "
            "curation.temperature above 0"
        )
    return find_shards(config.curation.input)


def _different(config: Config) -> float:
    """How many rewrites of a document can differ."""
    if config.curation.writer == "echo":
        return 1
    if config.teacher.temperature > 0:
        return math.inf
    if shares := config.curation.strategies:
        # Beyond this the likeliest strategy comes twice.
        return math.floor(sum(shares.values()) / max(shares.values()))
    return 1 if config.teacher.prompting == "policy" else len(set(config.teacher.strategies))


def sampling_config(config: Config) -> Config:
    """The config with the temperature and the strategies that curation samples with."""
    curation = config.curation
    changes: dict[str, Any] = {}
    for temperature in (config.teacher.evaluation_temperature, curation.temperature):
        if temperature is not None:
            changes["temperature"] = temperature
    if curation.strategies:
        changes["strategies"] = tuple(curation.strategies)
    return config.model_copy(update={"teacher": config.teacher.model_copy(update=changes)})


def teacher_checkpoint(config: Config) -> Path | None:
    """The checkpoint to write with. Raises UserError if there is no such teacher."""
    if config.curation.writer == "echo":
        return None
    check_available(config.teacher.model, config.lab.dir)
    if is_foreign(config):
        return None
    checkpoint = best_checkpoint(config.run.dir)
    if latest_checkpoint(config.run.dir) is not None:
        check_same_teacher(config)
    return checkpoint


def is_unbeaten(config: Config) -> bool:
    """Whether the run has rounds, and its untrained teacher validated best."""
    run = config.run.dir
    ours = config.curation.writer != "echo" and not is_foreign(config)
    return ours and best_checkpoint(run) is None and latest_checkpoint(run) is not None


def is_foreign(config: Config) -> bool:
    """Whether an endpoint writes: which model it serves, `serving.model` says, and its weights are not ours to see."""
    return config.curation.writer != "echo" and config.teacher.writer == "endpoint"


def check_same_teacher(config: Config) -> None:
    """Raises UserError if the run in `run.dir` had another teacher than this config.

    A checkpoint that was put there by hand has no config beside it, and is taken as it is.
    """
    path = config.run.dir / "config.yaml"
    trained = load_config(path) if path.is_file() else config
    for key in ("model", "prompting", "strategies", "lora"):
        theirs, ours = getattr(trained.teacher, key), getattr(config.teacher, key)
        if theirs != ours:
            raise UserError(f"{config.run.dir} trained another teacher (teacher.{key}: {theirs} -> {ours})")


def run_settings(
    config: Config, checkpoint: Path | None, checked: list[Checked], items: list[Question], index: BenchmarkIndex
) -> dict[str, Any]:
    """Everything that changes the rows, as JSON; what only changes their speed is left out."""
    echo = config.curation.writer == "echo"
    prompted = config.teacher.strategies if config.teacher.prompting == "strategy" and not echo else ()
    strategies = {s: read_strategy(s) for s in prompted}
    labels = [strategy_label(s) for s in config.teacher.strategies]
    foreign = is_foreign(config)
    served = SERVED if config.teacher.writer != "transformers" and not echo else set()
    name = config.serving.model if foreign else config.teacher.model
    name = Path(name).name if Path(name).is_dir() else name
    elsewhere = {"input", "output", "temperature", "benchmarks", "embedder", *SPEED}
    not_sampled = {"model", "lora", "evaluation_temperature"}  # `temperature` is what curation samples at
    adapter = checkpoint is not None and (checkpoint / "adapter_config.json").is_file()
    return {
        "format": FORMAT,
        "seed": config.run.seed,
        "teacher_name": "echo" if echo else f"{name}+{checkpoint.name}" if checkpoint else name,
        "teacher_hash": None if echo or foreign else teacher_hash(config, checkpoint),
        "adapter_hash": hash_folder(checkpoint) if checkpoint is not None and adapter else None,
        "trained": checkpoint is not None,
        "teacher": config.teacher.model_dump(mode="json", exclude=not_sampled) | {"strategies": labels},
        "serving": config.serving.model_dump(mode="json", include=served),
        "strategies": {strategy_label(s): hashlib.sha256(text.encode()).hexdigest() for s, text in strategies.items()},
        "gates": config.gates.model_dump(mode="json"),
        "benchmarks": list(index.items),
        "benchmark_items": _items_hash(items, index),
        "embedder_hash": _embedder_hash(config.curation.embedder),
        "curation": config.curation.model_dump(mode="json", exclude=elsewhere),
        "input": {c.name: c.sha256 for c in checked},
    }


def _items_hash(items: list[Question], index: BenchmarkIndex) -> str:
    gated = hashlib.sha256(repr([(q.prompt, q.answer) for q in items]).encode()).hexdigest()
    return hashlib.sha256(f"{gated}\n{index.sha256}".encode()).hexdigest() if index.items else gated


def _embedder_hash(embedder: str | None) -> str | None:
    """A folder's content, that of its modules' folders too; a Hub id is taken as it is."""
    if embedder is None or not Path(embedder).is_dir():
        return embedder
    folders = [Path(embedder), *sorted(path for path in Path(embedder).rglob("*") if path.is_dir())]
    return hashlib.sha256("\n".join(map(hash_folder, folders)).encode()).hexdigest()


def teacher_hash(config: Config, checkpoint: Path | None) -> str:
    """SHA-256 of the weights that write: the checkpoint's, and where it is an adapter also its base model's. A base
    model from the Hub is named by its commit."""
    parts = [] if checkpoint is None else [hash_folder(checkpoint)]
    if checkpoint is None or (checkpoint / "adapter_config.json").is_file():
        folder = Path(config.teacher.model)
        if folder.is_dir():
            parts.append(hash_folder(folder))
        else:
            try:
                parts.append(Path(str(cached_file(config.teacher.model, "config.json"))).parent.name)
            except OSError as error:
                raise UserError(f"cannot load model {config.teacher.model!r}: {str(error).splitlines()[0]}") from None
    return parts[0] if len(parts) == 1 else hashlib.sha256("\n".join(parts).encode()).hexdigest()


def benchmark_items(config: Config) -> list[Question]:
    """The questions that no rewrite may carry: those of `data.heldout`, and the held-out ones of all others.

    Documents without questions have those that were written for training, if any were. Raises UserError.
    """
    benchmark = DocumentQuestions(config.student.prompt_template)
    known = read_questions(questions_file(config)) if config.data.train or config.data.heldout else {}

    def asked(patterns: tuple[str, ...]) -> list[Question]:
        documents = read_documents(patterns, known=known, optional=True) if patterns else []
        return [question for document in documents for question in benchmark.exam(document).questions]

    items, others = (
        asked(config.data.heldout),
        [*asked(config.data.train), *external_questions(config.reward, config.student.prompt_template)],
    )
    return items + [question for question in others if question.split == "heldout"]


def fingerprint(settings: dict[str, Any]) -> str:
    """SHA-256 of everything that changes the output; equal fingerprints give equal rows (greedy: equal bytes)."""
    return hashlib.sha256(orjson.dumps(settings, option=orjson.OPT_SORT_KEYS)).hexdigest()


def acquire_output(output: Path, settings: dict[str, Any]) -> None:
    """Makes `output` this run's, or finds that it already is.

    Raises UserError, with the difference, if another run's work lies there.
    """
    state = output / WORK / "settings.json"
    for place in (output / "manifest.json", state):
        if place.exists():
            theirs = json.loads(place.read_bytes())["settings"]
            if fingerprint(theirs) == fingerprint(settings):
                return
            changes = list(_differences("", theirs, json.loads(orjson.dumps(settings))))
            more = f" and {len(changes) - 4} more" if len(changes) > 4 else ""
            raise UserError(
                f"{output} holds a dataset of another run ({'; '.join(changes[:4])}{more}): name another "
                "curation.output, or delete that folder"
            )
    write_whole(state, json.dumps({"settings": settings}, indent=1).encode())


def refuse_foreign(output: Path) -> None:
    """Raises UserError if `output` is a file, or a folder with files in it that no curation wrote."""
    if output.exists() and not output.is_dir():
        raise UserError(f"curation.output {output} is a file, not a folder")
    if not output.exists() or (output / WORK).exists() or (output / "manifest.json").exists():
        return
    foreign = sorted(p.name for p in output.iterdir())
    if foreign:
        raise UserError(f"curation.output {output} is not empty and no dataset of ours ({', '.join(foreign[:3])})")


def _differences(name: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(f"{name}.{key}" if name else key, old.get(key), new.get(key))
    elif old != new:
        yield f"{name}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def hash_folder(folder: Path) -> str:
    """SHA-256 over the names and contents of a model folder's weight, config and tokenizer files."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".bin", ".json", ".model", ".txt", ".gguf", ".jinja") and path.is_file():
            with path.open("rb") as file:
                digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()

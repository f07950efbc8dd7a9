"""What names a curation run, and whose folder the output is.

A fingerprint covers everything that changes the rows, and nothing that only makes them faster.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from transformers.utils import cached_file

from configs.errors import UserError
from configs.files import read_own, write_whole
from configs.load import differences
from configs.schema import Config
from configs.schema.teacher import HEAD
from curation.corpus.decontaminate import BenchmarkIndex
from curation.corpus.inputs import model_writes
from curation.pipeline.dataset import NO_TEACHER, WORK
from student.records import Question
from teacher.gates.checks import VERSION as GATES_VERSION
from teacher.prompting.strategies import content_of, is_ready, strategy_label
from teacher.reward.best_of import FittedScreen
from teacher.run.checkpoints import is_adapter
from teacher.sampling import SAMPLING_VERSION

SPEED = ("workers", "executor", "slurm", "ray", "wait")
"""Keys of `curation` that say where and how fast the rows are made, and change none of them."""


def written_by_endpoint(config: Config) -> bool:
    """Whether an endpoint writes: `serving.model` names its model, and its weights cannot be hashed."""
    return model_writes(config) and config.teacher.writer == "endpoint"


def run_settings(
    config: Config,
    checkpoint: Path | None,
    input_hashes: dict[str, str],
    items: Sequence[Question],
    index: BenchmarkIndex,
    screen: FittedScreen | None = None,
) -> dict[str, Any]:
    """Everything that changes the rows, as JSON values. `input_hashes` are those of the files' contents, by name."""
    echo, by_endpoint, without_model = (
        config.curation.writer == "echo",
        written_by_endpoint(config),
        not model_writes(config),
    )
    strategies = () if echo else config.teacher.strategies
    if config.teacher.prompting == "policy":  # it knows what it writes by tags alone
        strategies = tuple(filter(is_ready, strategies))
    # Other keys of `serving` say where and how fast an endpoint writes.
    in_process = without_model or config.teacher.writer == "transformers"
    served = set() if in_process else {"model", "chat", "body", "context_tokens"}
    name = config.serving.model if by_endpoint else config.teacher.model
    name = Path(name).name if Path(name).is_dir() else name
    written_by = f"{name}+{checkpoint.name}" if checkpoint else name
    if without_model:
        written_by = "echo" if echo else NO_TEACHER
    # These have entries of their own below, or are hashed by content instead of by path.
    elsewhere = {"input", "output", "temperature", "benchmarks", "embedder", *SPEED}
    not_sampled = {"model", "lora", "evaluation_temperature", "gradient_checkpointing"}
    adapter, temperatures = is_adapter(checkpoint), config.curation.temperatures(config.teacher)
    items_hash = _sha256(repr([(q.prompt, q.answer) for q in items]))
    if index.items:
        indexed = {name: [(q.prompt, q.answer) for q in questions] for name, questions in index.items.items()}
        items_hash = _sha256(f"{items_hash}\n{_sha256(repr(indexed))}")
    embedder = config.curation.embedder
    if embedder is not None and (folder := Path(embedder)).is_dir():
        # An embedder's modules have folders of their own below it.
        folders = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]
        embedder = _sha256("\n".join(map(hash_folder, folders)))
    return {
        "format": 7,  # of the rows that this code makes
        "sampling": SAMPLING_VERSION,
        "seed": config.run.seed,
        "teacher_name": written_by,
        "teacher_hash": None if without_model or by_endpoint else teacher_hash(config.teacher.model, checkpoint),
        # By it prompts are made and cut.
        "tokenizer_hash": teacher_hash(config.teacher.model, None) if by_endpoint else None,
        "adapter_hash": hash_folder(checkpoint) if checkpoint is not None and adapter else None,
        "trained": checkpoint is not None,
        "teacher": config.teacher.model_dump(mode="json", exclude=not_sampled)
        | {"strategies": [strategy_label(name) for name in config.teacher.strategies]}
        | ({"temperature": temperatures} if len(temperatures) > 1 else {}),
        "serving": config.serving.model_dump(mode="json", include=served),
        "strategies": {strategy_label(name): _sha256(content_of(name)) for name in strategies},
        "gates": {**config.gates.model_dump(mode="json"), "version": GATES_VERSION},
        "benchmarks": list(index.items),
        "benchmark_items": items_hash,
        "embedder_hash": embedder,
        "screen": None if screen is None else _sha256(repr(screen)),
        "passage_tokens": config.data.passage_tokens,
        "curation": config.curation.model_dump(mode="json", exclude=elsewhere),
        "input": input_hashes,
    }


def fingerprint(settings: dict[str, Any]) -> str:
    """SHA-256 of `run_settings`."""
    return hashlib.sha256(orjson.dumps(settings, option=orjson.OPT_SORT_KEYS)).hexdigest()


def acquire_output(output: Path, settings: dict[str, Any]) -> None:
    """Makes `output` the folder of this run. Raises UserError, with the difference, if it holds another run's work."""
    state = output / WORK / "settings.json"
    for path in (output / "manifest.json", state):
        if not path.exists():
            continue
        before = read_own(path, lambda run: dict(run["settings"]))
        if fingerprint(before) == fingerprint(settings):
            return
        changed = sorted(differences(before, json.loads(orjson.dumps(settings))))
        changes = [f"{key}: {_short(old)} -> {_short(new)}" for key, old, new in changed]
        more = f" and {len(changes) - 4} more" if len(changes) > 4 else ""
        raise UserError(
            f"{output} holds a dataset of another run ({'; '.join(changes[:4])}{more}): name another "
            "curation.output, or delete that folder"
        )
    write_whole(state, json.dumps({"settings": settings}, indent=1))


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def refuse_foreign(output: Path) -> None:
    """Raises UserError if `output` is a file, or a folder with files in it that no curation wrote."""
    if output.exists() and not output.is_dir():
        raise UserError(f"curation.output {output} is a file, not a folder")
    if not output.exists() or (output / WORK).exists() or (output / "manifest.json").exists():
        return
    if names := sorted(path.name for path in output.iterdir()):
        raise UserError(f"curation.output {output} is not empty and no dataset of ours ({', '.join(names[:3])})")


def teacher_hash(model: str, checkpoint: Path | None) -> str:
    """SHA-256 of the weights that write: the checkpoint's, and where it is an adapter also its base model's. For a base
    model from the Hub its commit stands instead."""
    if checkpoint is not None and not is_adapter(checkpoint):
        return hash_folder(checkpoint)
    if model == HEAD:
        base = HEAD  # untrained it chooses at random
    elif Path(model).is_dir():
        base = hash_folder(Path(model))
    else:
        try:
            # The cache names a snapshot's folder by its commit.
            base = Path(str(cached_file(model, "config.json"))).parent.name
        except OSError as error:
            raise UserError(f"cannot load model {model!r}: {str(error).splitlines()[0]}") from None
    return base if checkpoint is None else _sha256(f"{hash_folder(checkpoint)}\n{base}")


def hash_folder(folder: Path) -> str:
    """SHA-256 over the names and contents of a model folder's weight, config and tokenizer files."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".bin", ".json", ".model", ".txt", ".gguf", ".jinja") and path.is_file():
            with path.open("rb") as file:
                digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

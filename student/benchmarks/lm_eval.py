"""lm-eval tasks by name as a benchmark, and lm-eval's own metrics of a student to check ours against.

    benchmark = LmEvalTasks(["arc_easy"], limit=200)        # or a task of yours: LmEvalTasks(["tasks/mine.yaml"])
    exam = benchmark.exam(document)                         # questions that stacked students answer in one batch
    lm_eval_metrics(benchmark, model, tokenizer, stack=pool.stack, slot=3)["arc_easy"]["acc"]

Needs `pip install notewright[benchmarks]`.
"""

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.errors import UserError, nearest
from student.benchmarks.items import question_from_requests
from student.engine.lora import AdapterStack, Rows
from student.records import Document, Exam, Question

log = logging.getLogger(__name__)


class LmEvalTasks:
    """The test (else validation) items of lm-eval tasks, asked without examples in front; the same for every document.

    A multiple-choice item becomes its gold choice with all choices (the exam's `choice` and `choice_norm` are lm-eval's
    `acc` and `acc_norm`); a loglikelihood item its target; a generate_until item its first gold target. Where the
    choices sit in the prompt (WinoGrande) the gold one is asked without choices. An item's split hangs on its own text.

    Args:
        names: tasks, groups or tags that lm-eval knows, or paths of task YAML files.
        limit: the first items of each task; None takes all.
        include_path: a folder with task YAML files of your own.

    Raises:
        UserError: lm-eval is missing, a name is unknown, a task's data cannot be loaded or its items cannot be asked.
    """

    def __init__(self, names: list[str], *, limit: int | None = None, include_path: Path | None = None):
        self.tasks = load_tasks(names, include_path)
        self.doc_ids: dict[str, list[int]] = {}
        """The items of each task that are asked, as lm-eval counts them."""
        questions: list[Question] = []
        for name, task in self.tasks.items():
            asked = list(_questions(task, limit))
            kept = {number: question for number, question in asked if question is not None}
            if not kept:
                raise UserError(f"lm-eval task {name!r}: no item has a gold answer after its prompt and a space")
            if len(kept) < len(asked):
                log.warning("lm-eval task %s: %d of %d items can be asked", name, len(kept), len(asked))
            self.doc_ids[name] = list(kept)
            questions += kept.values()
        self.questions = tuple(dict.fromkeys(questions))

    def exam(self, document: Document) -> Exam:
        return Exam(questions=self.questions)


def load_tasks(names: list[str], include_path: Path | None = None) -> dict[str, Any]:
    """lm-eval's task objects by name, groups and tags unfolded, set to no examples in front."""
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
            raise UserError(f"lm-eval knows no task {name!r}; {_nearest_task(name, manager.all_tasks)}")
    try:
        tasks = manager.load(list(names))["tasks"]
    except Exception as error:  # what fails here is up to the task's own YAML, code and data set
        raise UserError(f"lm-eval tasks {', '.join(names)} cannot be loaded: {_first_line(error)}") from error
    for name, task in tasks.items():
        if task.OUTPUT_TYPE not in ("multiple_choice", "loglikelihood", "generate_until"):
            raise UserError(f"lm-eval task {name!r} is of type {task.OUTPUT_TYPE}, which has no gold answer to ask for")
        task.set_config("num_fewshot", 0)
    return tasks


def lm_eval_metrics(
    benchmark: LmEvalTasks,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    stack: AdapterStack | None = None,
    slot: int = 0,
    batch_size: int = 8,
) -> dict[str, dict[str, float]]:
    """lm-eval's own metrics on the benchmark's items, by task and metric (`acc`, `acc_norm`, `exact_match`, ...).

    Everything but the forward pass is lm-eval's: prompts, tokenisation, scoring. One student at a time: `slot` of
    `stack`, or the bare model.
    """
    from lm_eval.evaluator import evaluate

    results = evaluate(
        _student_lm(model, tokenizer, stack, slot, batch_size), {"tasks": benchmark.tasks},
        samples=benchmark.doc_ids, bootstrap_iters=0, log_samples=False, verbosity="WARNING",
    )  # fmt: skip
    assert results is not None, "one process has rank 0"
    # Keys are `metric,filter`; the filter is `none` unless the task post-processes what was generated.
    return {
        name: {
            key.removesuffix(",none"): float(value)
            for key, value in results["results"][name].items()
            if "," in key and "_stderr" not in key
        }
        for name in benchmark.tasks
    }


def _student_lm(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stack: AdapterStack | None, slot: int, batch_size: int
) -> Any:
    """An lm-eval LM that is one student: its HFLM, each forward pass of which runs through the slot's adapters."""
    from lm_eval.models.huggingface import HFLM

    class StudentLM(HFLM):
        def _rows(self, n: int) -> Rows | None:
            return None if stack is None else Rows.of([slot] * n, stack.n_slots, self.device)

        def _model_call(self, inps, *args, **kwargs):  # type: ignore[no-untyped-def]
            if stack is None:
                return super()._model_call(inps, *args, **kwargs)
            with stack.using(self._rows(len(inps))):
                return super()._model_call(inps, *args, **kwargs)

        def _model_generate(self, context, *args, **kwargs):  # type: ignore[no-untyped-def]
            if stack is None:
                return super()._model_generate(context, *args, **kwargs)
            with stack.using(self._rows(len(context))):
                return super()._model_generate(context, *args, **kwargs)

    return StudentLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)


def _questions(task: Any, limit: int | None) -> Iterator[tuple[int, Question | None]]:
    """Each item's number and question; None where it cannot be asked."""
    for number, doc in enumerate(islice(task.eval_docs, limit)):
        context = task.fewshot_context(doc, num_fewshot=0, gen_prefix=task.doc_to_prefix(doc))
        if task.OUTPUT_TYPE == "generate_until":
            requests, gold = [(context, task.config.target_delimiter + _gold_text(task, doc))], 0
        else:
            built = task.construct_requests(doc, context)
            # acc_mutual_info appends a request without context for each choice: those are not choices.
            instances = [i for i in built if i.args[0]] if isinstance(built, list) else [built]
            requests, gold = [(i.args[0], i.args[1]) for i in instances], _gold_index(task, doc)
        if not 0 <= gold < len(requests):
            yield number, None
            continue
        text = task.doc_to_text(doc)
        if isinstance(text, int):
            text = task.doc_to_choice(doc)[text]
        # Without the description: a word changed there must not move items to the other side.
        yield number, question_from_requests(requests, gold, item=(text, requests[gold][1]))


def _gold_index(task: Any, doc: Any) -> int:
    """The place of the gold request; -1 where the item names none."""
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


def _nearest_task(name: str, valid: list[str]) -> str:
    hint = nearest(name, valid)
    # Thousands of names are no help.
    return hint if hint.startswith("did") or len(valid) <= 20 else f"`lm-eval ls tasks` lists its {len(valid)}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"

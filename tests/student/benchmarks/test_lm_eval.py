"""lm-eval tasks as exams: accuracies, log-likelihoods and decoded answers equal lm-eval's own on the same students."""

import json
import math
import statistics
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from datatrove.data import Document
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from configs.errors import UserError
from configs.schema import Lora, Student
from student.benchmarks.lm_eval import LmEvalTasks
from student.benchmarks.sources import make_benchmark
from student.engine.packing import Rows
from student.engine.schedule import plan_schedule
from student.engine.training import train_slots
from student.pools.inline import InlinePool
from student.records import Job, Lesson

pytestmark = pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-eval (extra `benchmarks`)")

NO_DOC = Document(text="", id="doc")


def write_lines(path: Path, lines: list[dict]) -> Path:
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return path


COLOURS = ["blue", "dark green", "red", "light grey stone", "yellow"]


def colour_items(n=60):
    generator = torch.Generator().manual_seed(0)
    items = []
    for i in range(n):
        order = torch.randperm(len(COLOURS), generator=generator)[:4].tolist()
        choices = [COLOURS[k] for k in order]
        items.append({"question": f"What colour is thing {i}?", "choices": choices, "label": i % 4, "i": i})
        items[-1]["gold"] = choices[i % 4]
    return items


CHOICE_TASK = {
    "output_type": "multiple_choice",
    "description": "Colours of things.\n\n",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "label",
    "doc_to_choice": "choices",
    "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")],
}
LOGLIK_TASK = {
    "output_type": "loglikelihood",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": " {{gold}}",
    "metric_list": [
        {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
    ],
}
GENERATE_TASK = {
    "output_type": "generate_until",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{gold}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12, "do_sample": False},
    "filter_list": [{"name": "none", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
INPUT_TASK = {
    "output_type": "multiple_choice",
    "doc_to_text": "label",
    "doc_to_target": "is what {{question}} asks",
    "doc_to_choice": "choices",
}


@pytest.fixture
def task_folder(tmp_path):
    data = write_lines(tmp_path / "colours.jsonl", colour_items())
    shared = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    tasks = {"choice": CHOICE_TASK, "loglik": LOGLIK_TASK, "generate": GENERATE_TASK, "inputs": INPUT_TASK}
    for name, task in tasks.items():
        # JSON is YAML.
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"task": f"colour_{name}", **shared, **task}))
    return tmp_path


@pytest.fixture(scope="module")
def tokenizer():
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<eos>", "<pad>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    core.train_from_iterator(
        [f"Question: {i['question']}\nAnswer: {' '.join(COLOURS)}" for i in colour_items()], trainer
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>")


@pytest.fixture
def pool(tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, eos_token_id=0, pad_token_id=1, bos_token_id=None,
        initializer_range=0.2,
    )  # fmt: skip
    settings = Student(
        lora=Lora(rank=8, alpha=16), learning_rate=1e-2, steps=60, decode=True, max_answer_tokens=12, device="cpu"
    )
    return InlinePool(settings, model=LlamaForCausalLM(config).eval(), tokenizer=tokenizer)


def lm_eval_metrics(benchmark, pool, slot=None):
    """lm-eval's own metrics on the benchmark's items, by task and metric, of the student in `slot` or of the base.

    Prompts, tokenisation and scoring are lm-eval's; each forward pass runs through the slot's adapters.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    class StudentLM(HFLM):
        def _rows(self, inputs):
            if slot is None:
                return nullcontext()
            return pool.stack.using(Rows.of([slot] * len(inputs), pool.stack.n_slots, self.device))

        def _model_call(self, inps, *args, **kwargs):
            with self._rows(inps):
                return super()._model_call(inps, *args, **kwargs)

        def _model_generate(self, context, *args, **kwargs):
            with self._rows(context):
                return super()._model_generate(context, *args, **kwargs)

    results = evaluate(
        StudentLM(pretrained=pool.model, tokenizer=pool.tokenizer, backend="causal", batch_size=8),
        {"tasks": benchmark.tasks}, samples=benchmark.doc_ids, bootstrap_iters=0, log_samples=False,
        verbosity="WARNING",
    )["results"]  # fmt: skip
    # Keys are `metric,filter`; the filter is `none` unless the task post-processes what was generated.
    return {name: {k.removesuffix(",none"): v for k, v in results[name].items()} for name in benchmark.tasks}


def train_three(pool):
    """Three students in one stack that know the answers to none, a third and two thirds of the items."""
    items = colour_items()
    taught = [items[40:42], items[:20], items[:40]]
    lessons = [
        Lesson(texts=tuple(f"Question: {i['question']}\nAnswer: {i['gold']}\n" for i in part), seed=k)
        for k, part in enumerate(taught)
    ]
    schedules = [plan_schedule(pool.tokenizer, lesson, pool.settings) for lesson in lessons]
    pool.stack.allocate([lesson.seed for lesson in lessons])
    progress, _ = train_slots(
        pool.model, pool.stack, schedules, pool.settings, pad_id=pool.tokenizer.pad_token_id, max_tokens=4096
    )
    assert all(p.error is None for p in progress)


def test_multiple_choice_equals_lm_evals_own_metrics(pool, task_folder):
    benchmark = LmEvalTasks(["colour_choice"], include_path=task_folder)
    exam = benchmark.exam(NO_DOC)
    assert len(exam.questions) == 60
    assert exam.questions[0].prompt == "Colours of things.\n\nQuestion: What colour is thing 0?\nAnswer:"
    train_three(pool)
    seen = set()
    for slot, result in enumerate(pool.examiner.after([exam] * 3, 4096)):
        theirs = lm_eval_metrics(benchmark, pool, slot)["colour_choice"]
        ours = {n: statistics.fmean(g.extra[n] for g in result.grades) for n in ("choice", "choice_sum")}
        assert ours == pytest.approx({"choice_sum": theirs["acc"], "choice": theirs["acc_norm"]}, abs=1e-9)
        seen.add(round(statistics.fmean(g.loglik for g in result.grades), 3))
    base = pool.examiner.before(exam, 4096)
    theirs = lm_eval_metrics(benchmark, pool)["colour_choice"]
    assert statistics.fmean(g.extra["choice"] for g in base.grades) == pytest.approx(theirs["acc_norm"], abs=1e-9)
    assert len(seen) == 3, "students that were taught differently answer differently"


def test_loglikelihoods_and_decoded_answers_equal_lm_evals_own(pool, task_folder):
    benchmark = LmEvalTasks(["colour_loglik", "colour_generate"], include_path=task_folder)
    # Both tasks ask the same: one question each, not two.
    exam = benchmark.exam(NO_DOC)
    assert len(exam.questions) == 60
    train_three(pool)
    right = []
    for slot, result in enumerate(pool.examiner.after([exam] * 3, 4096)):
        theirs = lm_eval_metrics(benchmark, pool, slot)
        mean_loglik = statistics.fmean(g.extra["loglik_sum"] for g in result.grades)
        assert math.exp(-mean_loglik) == pytest.approx(theirs["colour_loglik"]["perplexity"], rel=1e-4)
        right.append(statistics.fmean(g.extra["greedy"] for g in result.grades))
        assert statistics.fmean(g.correct for g in result.grades) <= right[-1], "lm-eval lets an answer go on"
        assert right[-1] == pytest.approx(theirs["colour_loglik"]["acc"], abs=1e-9)
        decoded = statistics.fmean(g.extra["exact_match"] for g in result.grades)
        assert decoded == pytest.approx(theirs["colour_generate"]["exact_match"], abs=1e-9)
    assert right[0] < right[1] < right[2]


def test_lm_eval_items_have_stable_splits_and_reach_an_outcome(pool, task_folder):
    benchmark = LmEvalTasks([str(task_folder / "choice.yaml")])
    sides = {q.prompt.rpartition("\n\n")[2]: q.split for q in benchmark.questions}
    assert set(sides.values()) == {"reward", "heldout"}
    task = json.loads((task_folder / "choice.yaml").read_text()) | {"description": "Another word.\n\n"}
    (task_folder / "choice.yaml").write_text(json.dumps(task))
    write_lines(task_folder / "colours.jsonl", colour_items()[10:][::-1])
    again = {q.prompt.rpartition("\n\n")[2]: q.split for q in LmEvalTasks([str(task_folder / "choice.yaml")]).questions}
    assert len(again) == 50
    assert again == {prompt: sides[prompt] for prompt in again}

    [outcome] = pool.examine([Job(lesson=Lesson(texts=("blue", "red")), exam=benchmark.exam(NO_DOC))])
    assert outcome.error is None
    assert "heldout_gain" in outcome.metrics
    assert {"choice_after", "bits_per_byte_after"} <= outcome.answers[0].extra.keys()


def test_lm_eval_limit_and_choices_in_the_prompt(task_folder):
    benchmark = LmEvalTasks(["colour_inputs"], include_path=task_folder, limit=7)
    first, item = benchmark.questions[1], colour_items()[1]
    assert len(benchmark.questions) == 7
    assert benchmark.doc_ids == {"colour_inputs": list(range(7))}
    assert (first.prompt, first.answer, first.distractors) == (item["gold"], f"is what {item['question']} asks", ())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"output_type": "loglikelihood_rolling", "metric_list": None}, "no gold answer"),
        ({"target_delimiter": ""}, "after its prompt and a space"),
        ({"dataset_path": "someone/not-on-this-machine", "dataset_kwargs": {}}, "cannot be loaded"),
    ],
)
def test_lm_eval_tasks_that_cannot_be_asked_are_refused(task_folder, change, says):
    task = json.loads((task_folder / "choice.yaml").read_text()) | change
    (task_folder / "bad.yaml").write_text(
        json.dumps({k: v for k, v in task.items() if v is not None} | {"task": "bad"})
    )
    with pytest.raises(UserError, match=says):
        LmEvalTasks([str(task_folder / "bad.yaml")])


@pytest.mark.slow  # lm-eval reads its thousands of task files before a name is known to be in none of them
def test_an_unknown_lm_eval_task_gets_the_nearest_name(task_folder):
    with pytest.raises(UserError, match="did you mean 'colour_choice'"):
        LmEvalTasks(["colour_choise"], include_path=task_folder)


def test_a_missing_lm_eval_task_file_is_named():
    with pytest.raises(UserError, match="does not exist"):
        make_benchmark("lm-eval:no/such/task.yaml")

from collections import Counter
from pathlib import Path

import pytest
import torch

from configs.errors import RunError, UserError
from configs.files import read_json_lines
from configs.load import load_config, save_config
from student.pools.inline import InlinePool
from student.records import Question
from teacher.algorithms.algorithm import SamplingRound
from teacher.algorithms.distributed import Ranks
from teacher.algorithms.grpo import train_round
from teacher.prompting.strategies import read_strategy
from teacher.questions.cache import attach_questions, document_key
from teacher.records import Reward
from teacher.run.checkpoints import latest_checkpoint, save_checkpoint
from teacher.run.clock import Clock
from teacher.training.data import data_hash
from teacher.training.loop import round_documents, train_teacher
from teacher.writers.local import load_teacher

LEARNING = {
    "rest_em": {
        "rounds": 4,
        "documents_per_round": 16,
        "group_size": 8,
        "learning_rate": 0.01,
        "rest_em": {"epochs": 3, "batch_size": 4},
    },
    "grpo": {"rounds": 2, "documents_per_round": 40, "group_size": 16, "learning_rate": 0.02, "grpo": {"kl": 0.001}},
}


def quiet(_line):
    pass


def metrics_of(run_dir):
    return read_json_lines(run_dir / "journal" / "metrics.jsonl")


@pytest.mark.parametrize("algorithm", ["rest_em", "grpo"])
def test_the_teacher_learns_to_write_what_students_gain_from(make_config, make_documents, gold_pool, algorithm):
    config = make_config(rl={"algorithm": algorithm, **LEARNING[algorithm]}, reward={"rejected": -0.1})
    lines = []
    pool = gold_pool(noise=0.1)
    summary = train_teacher(config, make_documents(40), make_documents(32, "heldout"), lambda _: pool, lines.append)
    assert summary.reward_last.mean > summary.reward_first.mean + 0.1
    assert summary.differences["trained_minus_untrained"].low > 0
    assert summary.differences["trained_minus_raw"].low > 0
    assert summary.differences["accuracy_minus_raw"].mean >= 0
    assert summary.heldout["trained"].gain.mean == pytest.approx(
        summary.heldout["raw"].gain.mean + summary.differences["trained_minus_raw"].mean
    )
    kinds = Counter((line["kind"], line.get("arm")) for line in metrics_of(config.run.dir))
    steps = 4 if algorithm == "rest_em" else 20
    assert kinds["step", None] == steps
    assert kinds["update", None] == config.rl.rounds
    assert all(kinds["heldout", arm] == 1 for arm in ("raw", "untrained", "trained"))
    rewrites = read_json_lines(config.run.dir / "journal" / "rewrites.jsonl")
    per_round = config.rl.documents_per_round * config.rl.group_size
    assert len(rewrites) == config.rl.rounds * per_round + 2 * 32 * config.rl.evaluation_lessons
    assert len([line for line in lines if line.startswith("round")]) == steps
    assert all(line.endswith("left") and " students, " in line for line in lines if line.startswith("round"))
    assert summary.checkpoint == latest_checkpoint(config.run.dir)
    assert summary.examples[0].before != summary.examples[0].after


def test_a_finished_run_is_not_run_again(make_config, make_documents, gold_pool):
    config = make_config()
    documents, heldout = make_documents(8), make_documents(4, "heldout")
    first = train_teacher(config, documents, heldout, lambda _: gold_pool(), quiet)
    lines = metrics_of(config.run.dir)
    pool = gold_pool()
    again = train_teacher(config, documents, heldout, lambda _: pool, quiet)
    assert pool.calls == []
    assert metrics_of(config.run.dir) == lines
    assert (again.reward_last, again.heldout, again.examples) == (first.reward_last, first.heldout, first.examples)


def test_a_run_that_could_not_start_leaves_its_directory_free(make_config, make_documents, gold_pool, tmp_path):
    documents = make_documents(8)
    with pytest.raises(UserError, match="nowhere"):
        train_teacher(
            make_config(teacher={"model": str(tmp_path / "nowhere")}), documents, [], lambda _: gold_pool(), quiet
        )
    config = make_config()
    train_teacher(config, documents[:7], [], lambda _: gold_pool(), quiet)
    assert load_config(config.run.dir / "config.yaml").teacher.model == config.teacher.model
    with pytest.raises(UserError, match="on other contents"):
        train_teacher(config, documents, [], lambda _: gold_pool(), quiet)


def test_an_edited_strategy_file_is_another_run(make_config, make_documents, tmp_path):
    """Under either prompting: a `policy` teacher with a chat template is shown the files too."""
    (way := tmp_path / "way.txt").write_text("Say it: {document}")
    documents = make_documents(2)
    for prompting in ("strategy", "policy"):
        config = make_config(
            teacher={"prompting": prompting, "strategies": (str(way), "made-up")[: 1 + (prompting == "policy")]}
        )
        before = data_hash(config, documents, [])
        assert data_hash(config, documents, []) == before
        way.write_text(f"{way.read_text()}!")
        read_strategy.cache_clear()  # a resumed run is another process
        assert data_hash(config, documents, []) != before


def test_samples_of_an_earlier_version_are_refused_in_a_line(make_config, make_documents, gold_pool):
    config = make_config(rl={"evaluation_lessons": 1})
    documents, heldout = make_documents(8), make_documents(4, "heldout")
    train_teacher(config, documents, heldout, lambda _: gold_pool(), quiet)
    kept = config.run.dir / "config.yaml"
    kept.write_text("".join(line for line in kept.open() if "evaluation_lessons" not in line))
    with pytest.raises(RunError, match=r"heldout-untrained\.json does not hold 2 lessons of 1 rewrites a document"):
        train_teacher(make_config(), documents, heldout, lambda _: gold_pool(), quiet)


def test_a_run_directory_of_another_config_is_refused_with_the_difference(make_config, make_documents, gold_pool):
    config = make_config()
    save_config(config, config.run.dir / "config.yaml")
    with pytest.raises(UserError, match=r"rl\.group_size: 4 -> 6.*another run\.dir"):
        train_teacher(make_config(rl={"group_size": 6}), make_documents(8), [], lambda _: gold_pool(), quiet)
    tracked = make_config(curation={"workers": 2}, rl={"rounds": 2})
    train_teacher(tracked, make_documents(8), [], lambda _: gold_pool(), quiet)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"teacher": {"temperature": 0.0}}, "temperature 0"),
        ({"teacher": {"prompting": "strategy", "strategies": ("fqa",)}}, "did you mean 'faq'"),
        ({"teacher": {"model": "absent/folder/of/mine"}}, "there is no folder absent/folder/of/mine"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(make_config, make_documents, gold_pool, sections, message):
    pool = gold_pool()
    with pytest.raises(UserError, match=message):
        train_teacher(make_config(**sections), make_documents(8), [], lambda _: pool, quiet)
    assert pool.calls == []


def test_documents_are_checked_first(make_config, make_documents, gold_pool):
    documents = make_documents(8)
    with pytest.raises(UserError, match="more than once"):
        train_teacher(make_config(), documents, documents[:1], lambda _: gold_pool(), quiet)
    documents[2].metadata["questions"].pop(0)
    with pytest.raises(UserError, match=r"data\.train: document 'shop-2' has no reward questions"):
        train_teacher(make_config(), documents, [], lambda _: gold_pool(), quiet)
    with pytest.raises(UserError, match="no training documents"):
        train_teacher(make_config(), [], [], lambda _: gold_pool(), quiet)


def test_strategies_are_spread_evenly_over_the_samples_of_a_document(make_config, make_documents, gold_pool):
    teacher = {"prompting": "strategy", "strategies": ("copy", "faq"), "lora": {"rank": 2, "alpha": 4.0}}
    for algorithm in ("rest_em", "grpo"):
        config = make_config(Path(f"{make_config().run.dir}-{algorithm}"), teacher=teacher, rl={"algorithm": algorithm})
        summary = train_teacher(config, make_documents(8), make_documents(4, "heldout"), lambda _: gold_pool(), quiet)
        assert summary.strategies_first == {"copy": 0.5, "faq": 0.5}
        assert (summary.checkpoint / "adapter_config.json").is_file()


def test_rounds_deal_all_documents_before_any_comes_again(make_config, make_documents):
    config = make_config(rl={"documents_per_round": 5})
    documents = make_documents(10)
    rounds = [[d.id for d in round_documents(config, documents, r)] for r in range(1, 5)]
    assert sorted(rounds[0] + rounds[1]) == sorted(rounds[2] + rounds[3]) == sorted(d.id for d in documents)
    assert rounds[:2] != rounds[2:]
    assert [d.id for d in round_documents(config, documents, 3)] == rounds[2]


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8.0}])
def test_grpos_kl_is_to_the_teachers_start_and_not_to_the_rounds(make_config, make_documents, lora):
    """From a checkpoint far from the start the first step's KL is large; to the round's own start it would be 0."""
    config = make_config(teacher={"lora": lora}, rl={"algorithm": "grpo", "grpo": {"kl": 0.01}})
    documents = make_documents(4)

    def score(_step, groups):
        return [[Reward(value=float(g), outcome=None) for g in range(len(group))] for group in groups]

    def train(number, writer, start):
        return train_round(
            SamplingRound(
                config=config, number=number, writer=writer, documents=documents, gates=[], score=score, start=start,
                clock=Clock(), ranks=Ranks(),
            )
        )  # fmt: skip

    at_start, _ = train(1, load_teacher(config.teacher, train_seed=config.run.seed), None)
    moved = load_teacher(config.teacher, train_seed=config.run.seed)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in moved.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    checkpoint = save_checkpoint(config.run.dir, 1, moved.model, moved.tokenizer, moved.settings, None)
    later, optimizer = train(2, load_teacher(config.teacher, checkpoint, train_seed=config.run.seed), checkpoint)
    assert at_start["kl"] == pytest.approx(0.0, abs=1e-5)
    assert later["kl"] > 0.05
    assert optimizer.state


def test_the_loop_runs_on_real_students(make_config, make_documents, student_folder):
    """The real engine: a random base learns which good is named in its lesson, so lessons that name it gain more."""
    config = make_config(
        student={
            "model": str(student_folder), "steps": 12, "learning_rate": 0.01, "device": "cpu",
            "lora": {"rank": 4, "alpha": 8.0},
        },
        rl={"rounds": 1, "learning_rate": 0.001},
    )  # fmt: skip
    documents = make_documents(8)
    for document in documents:
        document.text = " ".join(["gold"] * 8)
    heldout = make_documents(32, "heldout")
    for document in heldout:
        document.text = " ".join(["gold"] * 9)
    summary = train_teacher(config, documents, heldout, InlinePool, quiet)
    assert summary.heldout["raw"].gain.mean > 0.2, "whoever read of gold answers gold"
    assert summary.differences["trained_minus_raw"].high < 0, "a random teacher's babble teaches less than that"
    lines = metrics_of(config.run.dir)
    asked = {kind: sum(x["students"] for x in lines if x["kind"] == kind) for kind in ("step", "heldout")}
    assert summary.student_runs == asked["step"] > 0
    assert summary.students == asked["step"] + asked["heldout"] > 2 * 8


def test_no_lesson_may_hold_what_any_exam_asks(make_config, make_documents, gold_pool, monkeypatch):
    """Nor what documents to train on brought: it may be a benchmark's. What was written about these is in no exam."""
    known = []
    monkeypatch.setattr("teacher.training.context.build_gates", lambda *given: known.extend(given[3]) or [])
    exam_items = [Question(prompt="who won ?", answer="she", split="heldout")]
    train, heldout = make_documents(8), make_documents(4, "heldout")
    for document in [*train[:5], *heldout[:2]]:
        written = {document_key(document): document.metadata.pop("questions")}
        document.metadata |= attach_questions([document], written)[0].metadata
    config = make_config(rl={"rounds": 1, "validation_documents": 4})
    train_teacher(config, train, heldout, lambda _: gold_pool(), quiet, exam_items=exam_items)
    names = *(f"heldout {i}" for i in range(4)), *(f"shop {i}" for i in range(5, 8))
    own = [f"what would {name} hold ?" for name in names]
    assert [question.prompt for question in known] == [*own, "who won ?"]

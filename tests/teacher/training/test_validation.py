"""Validation documents: best checkpoint and early stop; and the reliability asked for before the first round."""

from dataclasses import replace

import pytest

from configs.errors import RunError, UserError
from configs.files import read_json_lines
from teacher.run.checkpoints import best_checkpoint
from teacher.training.data import split_validation
from teacher.training.loop import train_teacher
from teacher.training.progress_lines import patience_line

LEARNS = {
    "rounds": 3,
    "documents_per_round": 16,
    "group_size": 8,
    "rest_em": {"epochs": 3, "batch_size": 4},
    "validation_documents": 8,
}


def journalled(config, kind):
    lines = read_json_lines(config.run.dir / "journal" / "metrics.jsonl")
    return [line for line in lines if line["kind"] == kind]


def test_a_heldout_exam_that_cannot_tell_the_measure_is_refused_before_the_first_round(
    make_config, make_documents, gold_pool
):
    config = make_config(reward={"measure": "contrast"})
    train, [heldout] = make_documents(4), make_documents(1, "town")
    for document, answer in zip(train, ("gold", "iron", "salt", "rope"), strict=True):
        document.metadata["questions"] = [q | {"answer": answer} for q in document.metadata["questions"]]
    with pytest.raises(UserError, match=r"data\.heldout: no heldout question with a distractor in 1 document, so"):
        train_teacher(config, train, [heldout], lambda _: gold_pool(), lambda _: None)
    assert not journalled(config, "heldout") and not journalled(config, "step"), "no student was taught"


def test_validation_documents_are_set_apart_in_whole_batches(make_config, make_documents):
    documents = make_documents(20)
    train, validation = split_validation(make_config(rl={"validation_documents": 5}), documents)
    assert len(validation) == 8, "two students of four documents each"
    assert sorted(d.id for d in [*train, *validation]) == sorted(d.id for d in documents)
    assert split_validation(make_config(rl={"validation_documents": 5}), documents) == (train, validation)
    assert split_validation(make_config(run={"seed": 1}, rl={"validation_documents": 5}), documents)[1] != validation
    alone = make_config(reward={"credit": "document"}, rl={"validation_documents": 5})
    assert len(split_validation(alone, documents)[1]) == 5
    assert split_validation(make_config(), documents) == (documents, [])
    with pytest.raises(UserError, match=r"sets 20 of 20 documents of data\.train apart"):
        split_validation(make_config(rl={"validation_documents": 17}), documents)


def test_the_round_that_validates_best_is_the_one_to_use(make_config, make_documents, gold_pool):
    config = make_config(rl=LEARNS)
    lines = []
    heldout = make_documents(8, "heldout")
    summary = train_teacher(config, make_documents(24), heldout, lambda _: gold_pool(), lines.append)
    gains = {line["round"]: line["gain/mean"] for line in journalled(config, "validation")}
    assert set(gains) == {0, 1, 2, 3}
    assert summary.best_round == max(gains, key=gains.get) > 0
    assert summary.checkpoint == best_checkpoint(config.run.dir)
    assert summary.checkpoint.name == f"checkpoint-{summary.best_round:04d}"
    rewrites = read_json_lines(config.run.dir / "journal" / "rewrites.jsonl")
    validated = {line["document_id"] for line in rewrites if line["arm"] == "validation"}
    assert len(validated) == 8
    assert not validated & {line["document_id"] for line in rewrites if line["arm"] == "train"}
    assert len([line for line in lines if line.startswith("validation round") and "best: " in line]) == 4
    students = [line["students"] for kind in ("step", "validation") for line in journalled(config, kind)]
    assert summary.student_runs == sum(students) == journalled(config, "validation")[-1]["students_total"]


def test_what_validates_a_round_is_what_is_rewarded(make_config, make_documents, forgetful, retention):
    """Of a text's share of gold students gain one nat, and forget two nats' worth."""
    config = make_config(rl=LEARNS, reward=retention(2.0))
    lines = []
    summary = train_teacher(config, make_documents(24), make_documents(8, "held"), lambda _: forgetful(), lines.append)
    figures = {line["round"]: line for line in journalled(config, "validation")}
    gains, rewards = ({n: line[f"{name}/mean"] for n, line in figures.items()} for name in ("gain", "reward"))
    assert summary.best_round == max(rewards, key=rewards.get) != max(gains, key=gains.get)
    for number, line in figures.items():
        assert rewards[number] == pytest.approx(gains[number] - line["penalty/retention"])
    assert all("reward " in line and "gain " in line for line in lines if line.startswith("validation round"))


def test_a_run_that_gets_worse_ends_early_and_stays_ended(make_config, make_documents, gold_pool):
    """At this learning rate the first update ruins the teacher."""
    config = make_config(rl=LEARNS | {"patience": 1, "learning_rate": 3.0, "rounds": 4}, teacher={"lora": None})
    heldout, lines = make_documents(4, "heldout"), []

    def pool(settings):
        return gold_pool()

    summary = train_teacher(config, make_documents(24), heldout, pool, lines.append)
    assert (summary.rounds, summary.best_round, summary.checkpoint) == (1, 0, None)
    assert any("no round gained more than the untrained teacher" in line for line in lines)
    assert summary.differences["trained_minus_untrained"].mean == 0, "the teacher to use is the untrained one"
    before = (config.run.dir / "journal" / "metrics.jsonl").read_bytes()
    again = train_teacher(config, make_documents(24), heldout, pool, lines.append)
    assert again.rounds == 1
    assert (config.run.dir / "journal" / "metrics.jsonl").read_bytes() == before


def test_a_reward_that_parts_from_the_truth_ends_the_run(make_config, make_documents, gold_pool):
    """Students are rewarded for a confidence that the word `gold` gives them, and know the less the surer they are."""

    class Overconfident(gold_pool):
        def _outcome(self, job):
            outcome = super()._outcome(job)
            answers = []
            for answer in outcome.answers:
                gain = answer.loglik_after - answer.loglik_before
                sure = {"self_certainty_before": 0.0, "self_certainty_after": gain}
                answers.append(replace(answer, loglik_after=answer.loglik_before - gain, extra=sure))
            return replace(outcome, answers=tuple(answers))

    config = make_config(
        rl=LEARNS | {"judged_by": "loglik", "patience": 1, "rounds": 4},
        reward={"measure": "self_certainty"}, student={"sampled_answers": 2},
    )  # fmt: skip
    lines = []
    summary = train_teacher(config, make_documents(24), [], lambda _: Overconfident(), lines.append)
    figures = {line["round"]: line for line in journalled(config, "validation")}
    last = summary.rounds
    worth = {number: line["gain/loglik/mean"] for number, line in figures.items()}
    assert last < 4 and summary.best_round == max(worth, key=worth.get) == last - 1
    assert figures[last]["reward/mean"] > figures[last - 1]["reward/mean"]
    [said] = [line for line in lines if "is the last" in line]
    assert said.startswith(f"round {last} is the last: 1 round without a better loglik") and "reward " in said


def test_a_measure_that_no_round_tells_is_no_figure():
    said = patience_line({"reward/mean": 1.0}, {"reward/mean": 2.0}, "contrast", last=3, best=2)
    assert "reward 1.00 then, 2.00 now, contrast - then, - now" in said


def test_a_reward_of_noise_is_refused_before_the_first_round(make_config, make_documents, gold_pool):
    lines, pools = [], []

    def noise(_settings):
        pools.append(gold_pool(noise=50.0))
        return pools[-1]

    config = make_config(reward={"minimum_reliability": 0.9})
    refused = r"reliability is 0\.\d\d.* with reward\.repeats=1, .* No round was run; .*reliability=0 goes on"
    for _ in range(2):  # the second time from the journal
        with pytest.raises(RunError, match=refused):
            train_teacher(config, make_documents(8), [], noise, lines.append)
    [pilot] = journalled(config, "pilot")
    assert pilot["students"] >= sum(pools[0].calls) > 8
    assert pools[1].calls == []
    assert not journalled(config, "step")
    regardless = make_config(reward={"minimum_reliability": 0.0})
    assert train_teacher(regardless, make_documents(8), [], noise, lines.append).rounds == 2


def test_a_reward_without_noise_is_taken_and_the_pilot_counts_as_cost(make_config, make_documents, gold_pool):
    lines = []
    config = make_config(reward={"minimum_reliability": 0.5}, rl={"rounds": 1, "group_size": 8})
    summary = train_teacher(config, make_documents(8), [], lambda _: gold_pool(noise=0.001), lines.append)
    assert any(line.startswith("the reward's reliability is 1.00 [") for line in lines)
    [pilot], [step] = journalled(config, "pilot"), journalled(config, "step")
    assert summary.student_runs == pilot["students"] + step["students"] == step["students_total"]
    assert pilot["students"] > step["students"] > 0

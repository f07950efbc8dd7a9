"""`notewright validity` with real students of a tiny model, and with students whose gains are planted."""

import json
import random

import pytest

from configs.errors import UserError
from configs.schema import Screen
from curation.cli import main
from curation.validity.run import run_validity
from student.pools.inline import InlinePool
from student.records import Answer, Outcome
from teacher.reward.signs import SIGNS
from tests.curation.validity.conftest import SETTINGS, WORTH, documents, with_, write
from tests.student.conftest import build


class Planted:
    """Students whose gains are known: what the way of rewriting is worth, and noise. It stands in for real students
    where the arithmetic is tested, and real ones could not be planted."""

    fingerprint = "planted"
    at_once = 8

    def __init__(self, noise=0.0, worth=WORTH):
        self.noise, self.worth, self.jobs = noise, worth, []

    def examine(self, jobs, on_done=None):
        self.jobs += jobs
        return [self._outcome(job) for job in jobs]

    def _outcome(self, job):
        taught = dict(zip(job.lesson.document_ids, job.lesson.texts, strict=True))
        answers = []
        for question in job.exam.questions:
            text = taught.get(question.document_id, "")
            way = "asked" if "?" in text else "filler" if "it was" in text else "told" if text[:2] == "on" else "half"
            gain = self.worth[way] + self.noise * random.Random(repr((job.lesson.seed, text))).gauss(0, 1)
            answers.append(Answer(loglik_before=0.0, loglik_after=gain, correct_before=False, correct_after=False))
        gain = sum(answer.loglik_after for answer in answers) / len(answers)
        metrics = {"accuracy_before": 0.0, "accuracy_after": 0.0, "lesson_tokens": 10.0}
        return Outcome(gain=gain, metrics=metrics, answers=tuple(answers))


def in_folder(config, folder):
    return config.model_copy(update={"run": config.run.model_copy(update={"dir": folder})})


def by_name(result):
    return {signal["name"]: signal for signal in result["signals"]}


def test_real_students_and_signs_are_held_against_the_outcomes(config, pool, capsys):
    result = run_validity(config, pool=pool)
    found, printed = by_name(result), capsys.readouterr().out
    assert (result["documents"], result["rewrites"], result["clusters"]) == (6, 24, 3)
    assert json.loads((config.run.dir / "validity.json").read_text()) == result
    measures = ("loglik", "contrast", "choice", "recall")
    works = ("document, 2", "document, 8", "shared, 2", "shared, 8")
    students = {f"{measure}, {work} steps" for measure in measures for work in works}
    assert students <= set(found) and len(found) == len(students) + len(SIGNS)
    # The answer stands in what is worth most; the tiny student gains most by it.
    for name in ("gold answers in the rewrite", "loglik, document, 8 steps"):
        assert found[name]["correlation"][0] > 0.7 and found[name]["regret"][0] < 0.5, name
    one, eight, shared = (found[f"loglik, {work} steps"] for work in ("document, 2", "document, 8", "shared, 8"))
    assert eight["tokens"] > 3 * one["tokens"] and eight["seconds"] > 0
    assert shared["tokens"] == pytest.approx(eight["tokens"], rel=0.5)  # every text in each step
    assert found["length"]["tokens"] == 0.0 and found["influence on a probe (SynPro)"]["tokens"] > 0
    assert found["overlap with the document"]["cannot_be_told"]  # no rewrite has four words of it in a row
    assert result["target"]["another_run"]["correlation"][0] > 0.9
    assert result["recommendation"] in printed and "cannot be told" in printed
    rows = [json.loads(line) for line in (config.run.dir / "validity-rewrites.jsonl").read_text().splitlines()]
    assert len(rows) == 24 and rows[0]["strategy"] == "asked" and len(rows[0]["target"]) == 2
    assert set(rows[0]["signals"]) == set(found)
    assert (config.run.dir / "validity.png").stat().st_size > 10_000
    design = json.loads((config.run.dir / "validity" / "design.json").read_text())
    assert design["statistics"]["clusters"] and design["validity"]["steps"] == [2, 8]


def test_a_stopped_call_goes_on_and_ends_alike(config, pool, monkeypatch):
    config = with_(config, steps=(2,), credits=("document",), measures=("loglik",), signs=("alignment", "probe"))
    whole = run_validity(config, pool=pool, output=config.run.dir / "whole.json")
    stopped = in_folder(config, config.run.dir.parent / "stopped")
    examine, calls = InlinePool.examine, []

    def killed(self, jobs, on_done=None):
        calls.append(len(jobs))
        if len(calls) == 2:
            examine(self, jobs[:5], on_done)
            raise KeyboardInterrupt
        return examine(self, jobs, on_done)

    monkeypatch.setattr(InlinePool, "examine", killed)
    with pytest.raises(KeyboardInterrupt):
        run_validity(stopped, pool=pool)
    assert not (stopped.run.dir / "validity.json").exists()
    again = run_validity(stopped, pool=pool)
    assert calls[1] - calls[2] == 5  # the students of the batch that had finished are not trained again
    for name, signal in by_name(whole).items():
        twin = by_name(again)[name]
        assert twin["correlation"] == pytest.approx(signal["correlation"], nan_ok=True), name
    trained = len(calls)
    run_validity(stopped, pool=pool)
    assert len(calls) == trained


def test_planted_signals_are_told_from_useless_ones(config, tmp_path):
    path = write(tmp_path / "many.jsonl", documents(24))
    config = with_(config, documents=24, steps=(8,), signs=("length",))
    config = config.model_copy(update={"data": config.data.model_copy(update={"train": (str(path),)})})
    good = by_name(run_validity(config, pool=Planted(noise=0.2)))["loglik, document, 8 steps"]
    assert good["p_holm"] < 0.001 and good["regret"][1] < 0.3
    low, high = good["corrected"][1:]
    assert low < 1.0 and high == 1.0  # what is planted is the target itself, behind noise
    assert good["reliability"] == pytest.approx(0.14 / (0.14 + 0.04), abs=0.2)
    result = run_validity(
        in_folder(config, tmp_path / "useless"), pool=Planted(noise=1.0, worth=dict.fromkeys(WORTH, 0.0))
    )
    useless = by_name(result)["loglik, document, 8 steps"]
    assert useless["p_holm"] > 0.05 and useless["regret"][1] < 1 < useless["regret"][2]


def test_the_target_may_be_other_students(config, pool, tokenizer):
    config = with_(
        config, target="student", target_student={"steps": 12, "lora": {"rank": 2}}, target_measure="loglik",
        steps=(8,), credits=("document",), measures=("loglik",), signs=("contained",),
    )  # fmt: skip
    settings = SETTINGS.model_copy(update={"steps": 12, "lora": SETTINGS.lora.model_copy(update={"rank": 2})})
    target_pool = InlinePool(settings, model=build("llama"), tokenizer=tokenizer)
    result = run_validity(config, pool=pool, target_pool=target_pool)
    assert result["target"]["runs"] == 2 and result["target"]["one_run"]["reliability"] > 0.5
    assert by_name(result)["loglik, document, 8 steps"]["correlation"][0] > 0.5
    assert "steps 12" in result["target"]["words"]


def test_gains_on_questions_and_on_text_are_held_against_each_other(config, pool, tmp_path):
    rows = [row | {"text": f"{row['text']}\n{' '.join(row['text'].split()[:3])} ."} for row in documents(6)]
    data = config.data.model_copy(update={"train": (str(write(tmp_path / "long.jsonl", rows)),), "continuation": 0.3})
    config = with_(
        config, target="student", target_measure="bits", target_repeats=1, repeated_documents=0, steps=(8,),
        credits=("document",), measures=("contrast", "bits"), signs=("length",),
    )  # fmt: skip
    found = by_name(run_validity(config.model_copy(update={"data": data}), pool=pool))
    told = {name: signal["correlation"][0] for name, signal in found.items() if name != "length"}
    assert told.keys() == {"contrast, document, 8 steps", "bits, document, 8 steps"}
    # Other seeds of the same students: text predicts itself best.
    assert 1 >= told["bits, document, 8 steps"] > max(0.5, told["contrast, document, 8 steps"])


def test_another_design_in_the_same_folder_is_refused(config, pool, monkeypatch):
    config = with_(config, steps=(2,), credits=("document",), measures=("loglik",), signs=("length",))
    run_validity(config, pool=pool)
    with pytest.raises(UserError, match=r"another design .*validity.steps"):
        run_validity(with_(config, steps=(4,)), pool=pool)
    # Before anything was measured a mistake can still be mended.
    fresh = in_folder(config, config.run.dir.parent / "fresh")
    for steps in (3, 2):
        monkeypatch.setattr(pool, "examine", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_validity(with_(fresh, steps=(steps,)), pool=pool)


def test_questions_without_distractors_get_answers_of_others(config, pool, tmp_path):
    rows = list(documents(6))
    for row in rows:
        for question in row["questions"]:
            del question["distractors"]
    write(tmp_path / "documents.jsonl", rows)
    config = with_(config, credits=("document",), steps=(8,), signs=("in-context-contrast",), measures=("contrast",))
    found = by_name(run_validity(config, pool=pool))
    assert not any(signal["cannot_be_told"].startswith("needs") for signal in found.values())
    assert found["contrast, document, 8 steps"]["correlation"][0] is not None
    design = json.loads((config.run.dir / "validity" / "design.json").read_text())
    assert design["reward"]["distractors"] == 4


def test_what_the_exam_does_not_give_cannot_be_told(config, tmp_path):
    rows = list(documents(6))
    for row in rows:
        for question in row["questions"]:
            del question["distractors"]
    write(tmp_path / "documents.jsonl", rows)
    found = by_name(run_validity(with_(config, steps=(8,), signs=("length", "alignment")), pool=Planted()))
    assert found["recall, document, 8 steps"]["cannot_be_told"] == "needs student.decode"
    assert "inline" in found["gradient alignment (LESS)"]["cannot_be_told"]
    assert not found["loglik, document, 8 steps"]["cannot_be_told"]


def test_failed_students_are_counted_and_leave_gaps(config, capsys):
    class Failing(Planted):
        def _outcome(self, job):
            failed = Outcome(gain=None, error="diverged")
            return failed if "it was" in "".join(job.lesson.texts) else super()._outcome(job)

    config = with_(config, credits=("document",), steps=(8,), signs=("length",), measures=("loglik",))
    result = run_validity(config, pool=Failing())
    assert len(result["failed_students"]) > 5 and "students failed: diverged" in capsys.readouterr().err
    assert by_name(result)["loglik, document, 8 steps"]["correlation"][0] > 0.9


def test_the_command_refuses_what_is_wrong(config, tmp_path, capsys):
    settings = tmp_path / "config.yaml"
    settings.write_text(f"data: {{train: [{tmp_path / 'documents.jsonl'}]}}\nstudent: {{model: {tmp_path / 'none'}}}\n")
    for override, words in (
        ("validity.steps=[8,2]", "the cheapest first"),
        ("validity.measures=[loglik,loglik]", "names one twice"),
        ("validity.sign=[length]", "did you mean 'signs'?"),
        ("validity.signs=[lenght]", "did you mean 'length'?"),
        ("validity.target_field=accuracy", "validity.target_field 'accuracy' in the documents"),
        ("validity.target_file=nowhere.jsonl", "no file nowhere.jsonl"),
        ("validity.rewrites=5", "no document brings 5 rewrites"),
        ("student.model=teacher", "set student.model"),
        ("run.seed=0", "none"),  # the model is not there
    ):
        assert main(["validity", str(settings), override, f"run.dir={tmp_path / 'cli'}"]) == 2
        said = capsys.readouterr().err.splitlines()
        assert words in said[-1] and said[-1].startswith("error: "), said


@pytest.mark.parametrize("tells", [True, False])
def test_a_screen_is_replayed_and_one_of_shuffled_outcomes_leaves_nothing_out(config, tmp_path, tells, capsys):
    path = write(tmp_path / "many.jsonl", documents(24))
    config = with_(
        config, documents=24, credits=("document",), steps=(8,), measures=("loglik",), signs=("length",),
        target="student", target_measure="loglik", target_repeats=1,
    )  # fmt: skip
    reward = config.reward.model_copy(update={"screen": Screen(signs=("length",))})
    config = config.model_copy(
        update={"reward": reward, "data": config.data.model_copy(update={"train": (str(path),)})}
    )
    worth = WORTH if tells else dict.fromkeys(WORTH, 0.0)
    students = Planted(noise=0.1, worth=worth)
    everything, screen, chance, shuffled = run_validity(config, pool=students, target_pool=students)["screen"]
    assert everything["tokens"] == 1.0 and "reward.screen would have saved" in capsys.readouterr().out
    assert shuffled["on"] < 0.1 and shuffled["tokens"] > 0.97
    if tells:
        assert screen["on"] > 0.9 and screen["later"] < screen["tokens"] < 0.95, screen
        assert screen["minus_all"][2] < chance["minus_all"][0] and chance["minus_all"][1] > 0
    else:
        assert screen["on"] < 0.1 and screen["minus_all"][1] <= 0 <= screen["minus_all"][2]
    of_four = config.model_copy(update={"reward": reward.model_copy(update={"screen": Screen(steps=8)})})
    with pytest.raises(UserError, match=r"steps=8 is not in validity\.steps"):
        run_validity(of_four, pool=students)

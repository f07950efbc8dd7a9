"""`notewright warm-up` on a tiny model: the curve ends the training, and nothing half made is left."""

import json
import random

import pytest
import torch
from datatrove.data import Document

from configs.errors import RunError, UserError
from configs.load import load_config
from configs.schema import Lab, Student
from curation.cli import main
from curation.lab import world
from curation.lab.models import StudentRecipe, biographies, fit, make_tokenizer, new_model, pad
from curation.models.passages import questions_about, split_by_title
from curation.models.states import States
from curation.models.warm_up import warm_up
from student.benchmarks.sources import DocumentQuestions
from student.engine.exam import Examiner
from student.engine.models import load_model
from student.engine.scores import Scorer
from student.pools.inline import InlinePool
from student.records import Exam, Job, Lesson
from student.statistics.intervals import estimate
from tests.curation.datasets import WORDS, write_jsonl

SUBJECTS, THINGS = WORDS[:15], WORDS[15:]


def passage(number, second=None):
    """A fact about two words: `ban bar ? fit lun`. With `second` every answer ends with that word."""
    subject = f"{SUBJECTS[number % 15]} {SUBJECTS[number // 15 % 15]}"
    answer = f"{THINGS[number % 5]} {second or THINGS[5 + number % 7]}"
    questions = [{"question": f"{subject} {word}", "answer": answer} for word in WORDS[:3]]
    return {"title": f"title {number}", "text": f"{subject} {answer}", "questions": questions}


@pytest.fixture
def call(teacher, tmp_path):
    """A call of `warm_up` with other arguments where they are given."""
    write_jsonl(tmp_path / "later.jsonl", [passage(number) for number in range(40, 50)])
    (tmp_path / "config.yaml").write_text(
        f"run: {{dir: {tmp_path / 'run'}}}\ndata: {{train: [{tmp_path / 'later.jsonl'}]}}\n"
        f"student: {{model: {teacher}, prompt_template: '{{question}} bal'}}\n"
    )

    def run(passages, **options):
        file = write_jsonl(tmp_path / "passages.jsonl", passages)
        arguments = {
            "model": str(teacher), "data": [str(file)], "output": tmp_path / "student", "form": "mixed",
            "tokens": 6000, "every": 1000, "limit": None, "learning_rate": 3e-3,
        }  # fmt: skip
        return warm_up(load_config(tmp_path / "config.yaml", []), **(arguments | options))

    return run


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def bits(folder):
    return load_model(str(folder))[0].state_dict()


def test_the_command_writes_a_student_with_its_curve(call, teacher, tmp_path, capsys):
    call([passage(number) for number in range(40)])  # writes the files
    arguments = [str(tmp_path / "config.yaml"), "--model", str(teacher), "--data", str(tmp_path / "passages.jsonl")]
    arguments += ["--data", str(tmp_path / "later.jsonl"), "--tokens", "6000", "--every", "1000"]
    assert main(["warm-up", *arguments, "--output", str(tmp_path / "other"), "--learning-rate", "0.003"]) == 0
    out, err = capsys.readouterr()
    *_, sentence, last = out.splitlines()
    figures = json.loads(last)
    assert figures == json.loads((tmp_path / "other" / "warm_up.json").read_text())
    assert figures["left_out"] == {"text used later": 10} and figures["titles"] + figures["held_out_titles"] == 40
    points = figures["curve"]
    assert points[0]["tokens"] == 0 and points[-1]["loglik"] > points[0]["loglik"] + 1
    assert all(low < point["loglik"] < high for point in points for low, high in [point["loglik_interval"]])
    assert figures["asked"] == 30 and figures["gain"][1] > 0
    assert figures["after"]["loglik"] - figures["before"]["loglik"] == pytest.approx(figures["gain"][0], abs=1e-3)
    assert "log-likelihood of gold answers" in sentence and "held-out" in err and "tokens/s" in err
    assert not leftovers(tmp_path)
    trained, base = bits(tmp_path / "other"), bits(teacher)
    assert all(torch.equal(trained[name], value) for name, value in bits(tmp_path / "student").items())
    assert not all(torch.equal(trained[name], base[name]) for name in base)
    assert main(["warm-up", *arguments, "--output", str(tmp_path / "other")]) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_it_ends_where_the_held_out_answers_get_worse_and_keeps_the_best(call, tmp_path):
    """All answers begin alike; how they end is another word for the titles that are held out. So first they are
    answered better, and then worse and worse."""

    def split(passages):
        return split_by_title([Document(text=p["text"], id="", metadata=p) for p in passages], [], 0)

    held_out = {document.metadata["title"] for document in split(map(passage, range(40))).probe}
    passages = [passage(number, "lun" if f"title {number}" in held_out else "mal") for number in range(40)]
    figures = call(passages, tokens=100_000)
    logliks = [point["loglik"] for point in figures["curve"]]
    best = next(n for n, point in enumerate(figures["curve"]) if point["tokens"] == figures["tokens_kept"])
    assert figures["stopped"] == "the held-out curve did not rise in 2 evaluations"
    assert 0 < best == len(logliks) - 3 and figures["tokens_trained"] < 30_000
    assert logliks[best] > logliks[0] and logliks[-1] < logliks[best]
    asked = questions_about(split(passages).probe, DocumentQuestions("{question} bal"), 200)
    examiner = Examiner(Scorer(*load_model(str(tmp_path / "student")), None, Student()))
    [found] = examiner.after([Exam(questions=asked.questions)], 4096)
    assert sum(g.loglik for g in found.grades) / len(found.grades) == pytest.approx(logliks[best], abs=0.02)


@pytest.mark.parametrize(("rate", "reason"), [(1e30, "diverged|no finite|at the start"), (1e-12, "got better")])
def test_a_training_that_is_worth_nothing_keeps_nothing(call, tmp_path, rate, reason):
    with pytest.raises(RunError, match=rf"the warm-up failed: .*({reason}).*; nothing is kept"):
        call([passage(number) for number in range(40)], learning_rate=rate)
    assert not leftovers(tmp_path) and not (tmp_path / "student").exists()


def test_a_call_that_was_killed_goes_on_from_its_last_point(call, tmp_path, monkeypatch, capsys):
    passages = [passage(number) for number in range(40)]
    whole = call(passages, output=tmp_path / "whole")
    real, kept = States.keep, []

    def killed_after_two(self, step, state, best_step):
        real(self, step, state, best_step)
        kept.append(step)
        if len(kept) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(States, "keep", killed_after_two)
        with pytest.raises(KeyboardInterrupt):
            call(passages)
    folder = tmp_path / ".student.training"
    assert not (tmp_path / "student").exists() and folder.is_dir()
    # A file that the disk lost half of is left out.
    (folder / "step-9999999.pt").write_bytes((folder / f"step-{kept[1]:07d}.pt").read_bytes()[:5000])
    capsys.readouterr()
    assert call(passages) == whole
    err = " ".join(capsys.readouterr().err.split())
    assert "step-9999999.pt cannot be read" in err and f"going on after {whole['curve'][2]['tokens']:,} tokens" in err
    trained = bits(tmp_path / "student")
    assert all(torch.equal(trained[name], value) for name, value in bits(tmp_path / "whole").items())
    assert not leftovers(tmp_path)


def test_what_a_call_with_other_settings_left_is_not_used(call, tmp_path, monkeypatch, capsys):
    passages, real = [passage(number) for number in range(40)], States.keep

    def killed(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(States, "keep", killed)
        with pytest.raises(KeyboardInterrupt):
            call(passages)
    figures = call(passages, learning_rate=2e-3)
    assert "other settings, data or code: this one starts anew" in " ".join(capsys.readouterr().err.split())
    assert figures["curve"][0]["tokens"] == 0 and not leftovers(tmp_path)


def test_a_full_disk_loses_nothing_that_was_kept(call, tmp_path, monkeypatch):
    passages, real, done = [passage(number) for number in range(40)], torch.save, []

    def full(*arguments):
        if done:
            raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device")
        done.append(real(*arguments))

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(RunError, match=r"No space left.*the same command goes on from it"):
            call(passages)
    assert [path.name[:5] for path in (tmp_path / ".student.training").glob("*.pt")] == ["step-"]
    assert call(passages)["curve"][0]["tokens"] == 0 and not leftovers(tmp_path)


def test_titles_of_the_config_are_refused_where_nothing_else_is_left(call):
    with pytest.raises(UserError, match="4 with a text used later"):
        call([passage(number) for number in range(40, 44)])


def reader(folder, lab):
    """A tiny model that has read every base person's biography in many wordings, and has never met a question."""
    tokenizer, rng = make_tokenizer(), random.Random(0)
    model = new_model(tokenizer, 0, width=128, layers=2, heads=4)
    rows = [
        ids + [tokenizer.eos_token_id] for ids in tokenizer(biographies(StudentRecipe(wordings=24), lab))["input_ids"]
    ]
    batches = (pad(rng.choices(rows, k=32), [1] * 32, tokenizer.pad_token_id) for _ in range(300))
    fit(model, batches, steps=300, learning_rate=3e-3, say=lambda line: None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.slow
def test_who_was_warmed_up_with_passages_learns_more_from_a_lesson(tmp_path):
    """Both forms teach what a question asks for, on people of the lab whom nobody has read of. A lesson about a further
    person, in other words than any passage, then brings more to the one that answered about what it had just read."""
    lab, people, unseen = Lab(), 192, 32
    reader(tmp_path / "base", lab)
    known, new = (
        world.make_people(lab.seed, lab.base_people + start, n) for start, n in ((0, people), (people, unseen))
    )
    documents = [[world.document(person, f"{person.name}") for person in part] for part in (known, new)]
    files = [
        write_jsonl(tmp_path / f"{name}.jsonl", part) for name, part in zip(("known", "new"), documents, strict=True)
    ]
    (tmp_path / "config.yaml").write_text(f"data: {{train: [{files[1]}]}}\n")
    config, benchmark = load_config(tmp_path / "config.yaml", []), DocumentQuestions()
    jobs = []
    for person, document in zip(new, documents[1], strict=True):
        rng = random.Random(person.name)
        texts = tuple(world.biography(person, world.random_outline(rng)) for _ in range(4))
        exam = benchmark.exam(Document(text="", id="", metadata=document))
        jobs.append(Job(lesson=Lesson(texts=texts), exam=exam))
    teaching = {"lora": {"rank": 8, "alpha": 16}, "learning_rate": 5e-3, "steps": 12, "tokens_per_step": 128}
    gains, accuracies = {}, {}
    for form in ("mixed", "questions", "none"):
        model = tmp_path / ("base" if form == "none" else form)
        if form != "none":
            figures = warm_up(
                config, model=str(tmp_path / "base"), data=[str(files[0])], output=model, form=form, tokens=60_000,
                every=15_000, limit=None, learning_rate=2e-3,
            )  # fmt: skip
            assert figures["gain"][1] > 5, "nats a token, about people whom it never read of: the form of an answer"
        outcomes = InlinePool(Student.model_validate({"model": str(model)} | teaching)).examine(jobs)
        gains[form] = [outcome.gain for outcome in outcomes]
        accuracies[form] = [outcome.metrics["accuracy_after"] for outcome in outcomes]
    for found, least in (gains, 0.5), (accuracies, 0.0):
        more = estimate([a - b for a, b in zip(found["mixed"], found["questions"], strict=True)])
        assert more.low > least, f"mixed - questions: {more}"
    assert max(accuracies["none"]) < 0.2, "without a warm-up the same lessons bring no answers"

"""Training with `reward.screen`: students whose gain is a known function of the text, and signs that tell it or not."""

from contextlib import suppress
from dataclasses import replace

import pytest
from pydantic import ValidationError

from configs.errors import UserError
from configs.files import read_json_lines
from configs.seeds import stable_seed
from teacher.reward.best_of import read_screen
from teacher.training.loop import train_teacher

SCREEN = {"signs": ("contained", "length"), "steps": 1, "share": 0.3, "floor": 0.0, "regret": 0.3}


def screened(make_config, run_dir, credit="document", algorithm="rest_em", **screen):
    rl = {"rounds": 3, "documents_per_round": 16, "group_size": 8, "algorithm": algorithm}
    reward = {"credit": credit, "documents_per_student": 2, "screen": SCREEN | screen}
    return make_config(run_dir=run_dir, reward=reward, rl=rl)


def lines_of(config, name="rewrites"):
    # A student that two rounds ask for is counted once by a process that saw both.
    skipped = ("time", "seconds", "students", "idle_share")
    lines = read_json_lines(config.run.dir / "journal" / f"{name}.jsonl")
    return [{k: v for k, v in line.items() if not k.startswith(skipped)} for line in lines]


class Killed(Exception):
    pass


@pytest.fixture
def early_pool(gold_pool):
    """Students that gain by words early in the alphabet as by `gold`: a random teacher writes some in most lessons."""

    class EarlyPool(gold_pool):
        fingerprint = "early-1"

        def _outcome(self, job):
            texts = tuple(" ".join("gold" if w < "m" else w for w in text.split()) for text in job.lesson.texts)
            return super()._outcome(replace(job, lesson=replace(job.lesson, texts=texts)))

    return EarlyPool


@pytest.mark.parametrize(("credit", "algorithm"), [("document", "rest_em"), ("shared", "dpo")])
def test_lessons_are_left_out_once_signs_tell_and_a_killed_run_ends_alike(
    make_config, make_documents, early_pool, tmp_path, credit, algorithm
):
    config, documents = screened(make_config, tmp_path / "whole", credit, algorithm), make_documents(20)
    pool, shown = early_pool(), []
    train_teacher(config, documents, [], make_pool=lambda _: pool, progress=shown.append)
    lines = [line for line in lines_of(config) if line["arm"] == "train"]
    measured = [line for line in lines if line.get("signs") is not None]
    left_out = [line for line in measured if not line["taught"]]
    assert left_out and {line["round"] for line in left_out} <= {2, 3}  # the first round is what it is fitted on
    assert all(line["gain"] is None and line["reward"] is None for line in left_out)
    steps = [line for line in lines_of(config, "metrics") if line["kind"] == "step"]
    on = [line for line in steps if line["screen/on"]]
    assert on and steps[0] not in on
    assert all(line["screen/short/mean"] > 0.5 and line["reward/mean"] is not None for line in on)
    assert any("screen: signs r" in line for line in shown)
    # A document that was drawn is taught whole, all others at most what is kept.
    by_document = {}
    for line in measured:
        by_document.setdefault((line["step"], line["document_id"]), []).append(line["taught"])
    some = [sum(taught) for (step, _), taught in by_document.items() if step > 1 and not all(taught)]
    assert some and max(some) <= max(line["screen/short/kept"] for line in on)

    again = screened(make_config, tmp_path / "killed", credit, algorithm)
    calls = len(pool.calls)
    for stop in (calls // 2, calls - 2):
        dying = early_pool()
        examine = dying.examine

        def limited(jobs, on_done=None, examine=examine, dying=dying, stop=stop):
            if len(dying.calls) >= stop:
                raise Killed
            return examine(jobs, on_done)

        dying.examine = limited
        with suppress(Killed):
            train_teacher(again, documents, [], make_pool=lambda _, dying=dying: dying, progress=shown.append)
    train_teacher(again, documents, [], make_pool=lambda _: early_pool(), progress=shown.append)
    assert lines_of(again) == lines_of(config)
    assert lines_of(again, "metrics") == lines_of(config, "metrics")
    fitted, again_fitted = (of.run.dir / "teacher" / "screen.json" for of in (config, again))
    assert fitted.read_bytes() == again_fitted.read_bytes()
    # Only documents that were taught whole, and of the signs those that need no question.
    screen = read_screen(fitted)
    assert screen.signs == ("length", "overlap") and screen.student is None
    whole = [of for of in by_document.values() if all(of)]
    unmeasured = len({(line["step"], line["document_id"]) for line in lines}) - len(by_document)
    assert 8 < screen.documents <= len(whole) + unmeasured


def test_every_run_fits_what_curation_chooses_by_unless_a_lesson_is_a_set(
    make_config, make_documents, gold_pool, tmp_path
):
    """The share of `gold` falls with every other word: a lesson's length tells it where each holds one."""

    class ShortPool(gold_pool):
        fingerprint = "short-1"

        def _outcome(self, job):
            gold = tuple(f"gold {text}" for text in job.lesson.texts)
            return super()._outcome(replace(job, lesson=replace(job.lesson, texts=gold)))

    config = make_config(run_dir=tmp_path / "run", rl={"documents_per_round": 16, "group_size": 8})
    train_teacher(config, make_documents(20), [], make_pool=lambda _: ShortPool(), progress=lambda _: None)
    screen = read_screen(config.run.dir / "teacher" / "screen.json")
    assert 8 < screen.documents <= 32 and screen.correlation.low > 0.3
    short, long = screen.predict([{"length": 3.0, "overlap": 0.0}, {"length": 9.0, "overlap": 0.0}])
    assert short.gain > 0 > long.gain
    sets = make_config(run_dir=tmp_path / "sets", rl={"rounds": 1, "group_size": 2, "rewrites_per_lesson": 2})
    train_teacher(sets, make_documents(8), [], make_pool=lambda _: gold_pool(), progress=lambda _: None)
    assert not (sets.run.dir / "teacher" / "screen.json").exists()


def test_a_screen_of_noise_turns_itself_off_and_says_so(make_config, make_documents, gold_pool, tmp_path):
    config, shown = screened(make_config, tmp_path / "run", steps=None, signs=("length",), floor=0.3), []
    config = config.model_copy(update={"rl": config.rl.model_copy(update={"rounds": 2})})

    class Noise(gold_pool):
        fingerprint = "noise-1"

        def _outcome(self, job):
            self.noise = 0.0
            one = super()._outcome(job)
            heard = stable_seed(*job.lesson.texts) / 2**31
            answers = tuple(type(a)(**{**_fields(a), "loglik_after": a.loglik_before + heard}) for a in one.answers)
            return type(one)(gain=heard, metrics=one.metrics, answers=answers)

    train_teacher(config, make_documents(20), [], make_pool=lambda _: Noise(), progress=shown.append)
    assert all(line.get("taught", True) for line in lines_of(config))
    assert any("screen off, all lessons are taught" in line for line in shown)


def _fields(record):
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"rl": {"algorithm": "grpo"}, "reward": {"screen": SCREEN}}, "grpo"),
        ({"reward": {"credit": "shard", "screen": SCREEN}}, "shard"),
        ({"reward": {"adaptive": True, "repeats": 2, "screen": SCREEN}}, "adaptive"),
        ({"reward": {"screen": {"steps": 9}}}, "fewer than student.steps"),
    ],
)
def test_settings_that_it_does_not_go_with_are_refused(make_config, sections, message):
    with pytest.raises(ValidationError, match=message):
        make_config(**sections)


def test_a_misspelt_sign_is_named(make_config, make_documents, gold_pool):
    config = make_config(reward={"screen": {"signs": ("lenght",)}})
    with pytest.raises(UserError, match="did you mean 'length'"):
        train_teacher(config, make_documents(8), [], make_pool=lambda _: gold_pool())

"""`notewright bench settings`: with students of a tiny model, and with students who learn just what a text says."""

import json

import pytest

from configs.errors import UserError
from configs.schema import Search
from curation.cli import main
from curation.study.groups import read_arms
from curation.study.settings import run_settings
from curation.study.settings_report import print_settings
from student.pools.inline import InlinePool
from student.records import Answer, Outcome
from tests.curation.validity.conftest import ANIMALS, PLACES, documents, write
from tests.student.conftest import build

ARMS = ("echo", "sentences", "brought:asked", "foreign:brought:asked")


def searching(config, **search):
    settings = ({}, {"learning_rate": 1e-3, "lora": {"rank": 2}})
    of_search = {"documents": 6, "arms": ARMS, "repeated_documents": 3, "settings": settings} | search
    update = {"student": config.student.model_copy(update={"model": "tiny"}), "search": Search(**of_search)}
    return config.model_copy(update=update)


class Readers:
    """Students who know after a lesson what it says of their document, better where it asks; at a low rate nothing."""

    at_once = 8

    def __init__(self, settings):
        self.settings, self.jobs = settings, 0
        self.fingerprint = f"readers {settings.learning_rate}"

    def close(self):
        pass

    def examine(self, jobs, on_done=None):
        self.jobs += len(jobs)
        return [self._outcome(job) for job in jobs]

    def _outcome(self, job):
        [*texts] = job.lesson.texts
        answers = []
        for number, question in enumerate(job.exam.questions):
            fact = {word for word in f"{question.prompt} {question.answer}".split() if word in [*ANIMALS, *PLACES]}
            told = fact <= set(" ".join(texts).split())
            gain = 0.0 if self.settings.learning_rate < 0.01 else told * (1.0 + ("?" in " ".join(texts)))
            gain += 0.01 * (job.lesson.seed % 7 + number)
            extra = {f"{measure}_{when}": gain * (when == "after") for measure in ("contrast", "choice", "recall")
                     for when in ("before", "after")}  # fmt: skip
            answers.append(
                Answer(loglik_before=0.0, loglik_after=gain, correct_before=False, correct_after=told, extra=extra)
            )
        metrics = {"accuracy_before": 0.0, "accuracy_after": 0.0, "lesson_tokens": 10.0}
        return Outcome(gain=0.0, metrics=metrics, answers=tuple(answers))


def test_the_cheapest_setting_is_one_where_a_lesson_beats_foreign_text_and_the_passage(config, capsys):
    result = run_settings(searching(config), pools=Readers)
    assert json.loads((config.run.dir / "settings.json").read_text()) == result
    bound, slow = result["settings"]
    assert result["cheapest"] == bound["name"] == "as it is" and "brought:asked" in result["words"]
    assert slow["name"] == "learning_rate 0.001, lora.rank 2"
    [lesson] = bound["lessons"]
    assert lesson["beats_both"] and lesson["p_holm"] < 0.05 and not slow["lessons"][0]["beats_both"]
    for one in lesson["differences"]:
        assert one["mean"] == pytest.approx(2.0 if one["against"].startswith("foreign") else 1.0)
    # Three of six documents are taught once more; foreign text is no rewrite whose differences count as signal.
    assert bound["students"] == 4 * (6 + 3) and bound["tokens"] == 10
    assert bound["reliability"]["contrast"]["reliability"] > 0.99
    assert bound["arms"]["foreign:brought:asked"]["contrast"]["mean"] < 0.2
    print_settings(result, config.run.dir)
    printed = "".join(capsys.readouterr().out.split())
    assert "foreign:" in printed and "thecheapestsetting" in printed


def test_no_setting_is_named_where_no_lesson_beats_both(config):
    result = run_settings(searching(config, settings=({"learning_rate": 1e-3},)), pools=Readers)
    assert result["cheapest"] is None and "At none of 1 settings" in result["words"]


def test_real_students_are_kept_and_another_design_is_refused(config, tokenizer):
    pools = []

    def make(settings):
        pools.append(InlinePool(settings, model=build("llama"), tokenizer=tokenizer))
        return pools[-1]

    config = searching(config, documents=3, repeated_documents=1)
    first = run_settings(config, pools=make)
    assert first["settings"][0]["arms"]["sentences"]["recall"]["mean"] is not None, "students decode"
    assert first["settings"][0]["seconds"] > 0

    class Never(InlinePool):
        def examine(self, jobs, on_done=None):
            raise AssertionError("all students are in the journal")

    again = run_settings(config, pools=lambda settings: Never(settings, model=build("llama"), tokenizer=tokenizer))
    assert again == first
    with pytest.raises(UserError, match="begun with another design"):
        run_settings(searching(config, documents=4), pools=make)


def test_texts_of_foreign_arms_are_those_of_a_document_under_another_title(config):
    for group in read_arms(searching(config)):
        by_arm = {candidate.strategy: candidate for candidate in group.candidates}
        animal = next(word for word in ANIMALS if word in group.document.text)
        assert by_arm["echo"].text == group.document.text and animal in by_arm["brought:asked"].text
        assert animal not in by_arm["foreign:brought:asked"].text and by_arm["foreign:brought:asked"].control


def test_kinds_of_questions_are_told_apart(config, tmp_path):
    rows = list(documents(6))
    for row in rows:
        row["questions"][0]["kind"], row["questions"][1]["kind"] = "place", "animal"
    data = config.data.model_copy(update={"train": (str(write(tmp_path / "kinds.jsonl", rows)),)})
    result = run_settings(searching(config).model_copy(update={"data": data}), pools=Readers)
    kinds = result["settings"][0]["kinds"]
    assert kinds["animal"]["sentences"]["contrast"]["mean"] == pytest.approx(
        kinds["place"]["sentences"]["contrast"]["mean"] + 0.01
    )


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"documents": 7}, "6 of 6 documents of data.train have a text of every arm"),
        ({"arms": ("sentences", "brought:nothing")}, "no document brings a text 'brought:nothing'"),
        ({"arms": ("sentences", "nothing")}, "search.arms: unknown strategy 'nothing'"),
        ({"settings": ({"lerning_rate": 1},)}, "unknown key 'student.lerning_rate' in search.settings"),
        ({"settings": ({"tokens_per_step": 64, "steps": None},)}, "search.settings: student.tokens_per_step needs"),
        ({"arms": ("sentences", "plan:turns")}, r"search\.arms: plan:turns .* document"),
    ],
)
def test_what_cannot_be_measured_is_said_before_a_student_is_trained(config, search, words):
    with pytest.raises(UserError, match=words):
        run_settings(searching(config, **search), pools=Readers)


def test_the_verb_answers_a_wrong_config_in_one_line(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text("search: {arms: [echo], passage: sentences}\n")
    assert main(["bench", "settings", str(path)]) == 2
    assert "search.passage: 'sentences' is none of search.arms" in capsys.readouterr().err

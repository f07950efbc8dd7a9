"""The report says what the run's journal says, and fetches nothing."""

import re

import pytest

from configs.errors import UserError
from configs.load import save_config
from configs.schema import Config
from curation.report import write_report
from curation.report.page import verdicts
from teacher.journal import Journal


def interval(name, mean, half):
    return {f"{name}/mean": mean, f"{name}/low": mean - half, f"{name}/high": mean + half}


@pytest.fixture
def run(tmp_path):
    """A run's journal, written as a run writes it."""
    config = Config.model_validate({"run": {"dir": tmp_path / "run"}, "curation": {"output": tmp_path / "none"}})
    save_config(config, tmp_path / "run" / "config.yaml")
    with Journal(tmp_path / "run") as journal:
        for step in (1, 2, 3):
            shares = {"strategy/copy": 1 - step / 4, "strategy/question-answer": step / 4, "gates/leak": step}
            gains = {"gain_by_strategy/copy": 0.2, "gain_by_strategy/question-answer": 1.5}
            varied = {"diversity/compression_ratio": 2.0, "diversity/distinct_strategies": 2}
            cost = {"students": 8, "students_total": 10 * step, "seconds": 1.5}
            line = {"kind": "step", "round": step, "step": step, **interval("reward", step / 2, 0.1)}
            journal.metric(line | shares | gains | varied | cost)
            for sample, strategy in enumerate(("copy", "question-answer")):
                scored = {"reward": sample, "gain": float(sample), "rejected": None}
                place = {"arm": "train", "round": step, "step": step, "document_id": "a", "sample": sample}
                journal.rewrites.append(place | {"strategy": strategy, "text": f"text {sample} & <b>"} | scored)
            journal.metric({"kind": "validation", "round": step - 1, **interval("gain", 0.1 * step, 0.1)})
        for arm, gain in (("raw", 0.5), ("untrained", 0.4), ("trained", 1.4)):
            figures = interval("gain", gain, 0.2) | interval("accuracy", gain / 2, 0.1)
            journal.metric({"kind": "heldout", "round": 0, "arm": arm, "documents": 12, **figures})
            if arm != "raw":
                place = {"arm": arm, "round": 0, "step": 0, "document_id": "h", "sample": 0}
                journal.rewrites.append(place | {"strategy": "copy", "rejected": None, "text": f"Ada by the {arm} one"})
        differences = interval("trained_minus_raw", 0.9, 0.3) | interval("trained_minus_untrained", 0.1, 0.3)
        journal.metric({"kind": "difference", "round": 3, **differences})
    return tmp_path / "run"


def test_the_page_says_what_the_journal_says(run):
    page = write_report(run).read_text(encoding="utf-8")
    words = re.sub(r"<[^>]+>", "", page)
    assert "Students gain more from the trained teacher&#39;s lessons than from the raw documents: +0.90" in words
    assert "No detectable difference between the trained teacher&#39;s lessons and the untrained" in words
    assert "1.40 [1.20, 1.60]" in words
    assert "text 1 &amp; &lt;b&gt;" in page
    assert "<del>untrained</del>" in page
    assert "<ins>trained</ins>" in page
    assert "round 0 is the untrained teacher. Best: round 2." in words
    assert "student runs of training30" in words


def test_the_page_is_self_contained_and_its_plots_are_not_empty(run):
    page = write_report(run).read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert "@import" not in page
    plots = re.findall(r"<svg role.*?</svg>", page, flags=re.DOTALL)
    assert len(plots) == 8
    assert all(plot.count("<path") > 5 for plot in plots)
    assert all("currentColor" in plot for plot in plots), "text and axes take the page's colour"


def test_an_interval_below_zero_is_told_as_a_loss():
    metrics = [{"kind": "difference", **interval("trained_minus_raw", -0.5, 0.2)}]
    assert verdicts(metrics, {})[0].words.startswith("Students gain less from the trained teacher's lessons")


def test_a_fork_that_counts_its_steps_otherwise_ends_with_its_last_round(run):
    with Journal(run) as journal:
        journal.metric({"kind": "step", "round": 4, "step": 2, **interval("reward", 9.0, 0.1), "students_total": 99})
        place = {"arm": "train", "round": 4, "step": 2, "document_id": "forked", "sample": 0}
        journal.rewrites.append(place | {"strategy": "copy", "text": "forked", "gain": 7.0, "rejected": None})
    words = re.sub(r"<[^>]+>", "", write_report(run).read_text(encoding="utf-8"))
    assert "+7.00 nats a token (copy, forked)" in words and "student runs of training99" in words


def test_a_validation_without_an_interval_is_drawn_too(run):
    with Journal(run) as journal:
        journal.metric({"kind": "validation", "round": 3, "gain/mean": 0.7, "gain/low": float("nan")})
    page = write_report(run).read_text(encoding="utf-8")
    assert "Best: round 3." in page and 'aria-label="validation gain (nats a token)"' in page


@pytest.mark.parametrize("gains", [(0.5, 0.4), (0.5, 0.5)])
def test_a_training_that_no_round_won_is_told(gains):
    metrics = [{"kind": "validation", "round": r, "gain/mean": gain} for r, gain in enumerate(gains)]
    assert not any("No round beat" in verdict.words for verdict in verdicts(metrics[:1], {})), "it has just begun"
    found = verdicts([*metrics, {"kind": "step", "round": 1}], {})
    assert found[0].words.startswith("No round beat the untrained teacher")
    better = {"kind": "validation", "round": 2, "gain/mean": 0.6}
    assert "No round beat" not in verdicts([*metrics, better, {"kind": "step", "round": 2}], {})[0].words


def test_without_an_interval_nothing_is_claimed():
    line = {"kind": "difference", **interval("trained_minus_raw", 0.5, float("nan"))}
    verdict = verdicts([line], {})[0]
    assert "too few batches" in verdict.words
    assert not verdict.sure


def test_a_run_without_heldout_documents_claims_nothing():
    [verdict] = verdicts([{"kind": "step"}], {})
    assert "Nothing was compared" in verdict.words


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path)

"""`notewright bench selection --lab`: a screen's choice among samples is held against what all of them gained."""

import json

import numpy as np
import pytest
from datatrove.data import Document

from curation.bench.lab.screened import SAMPLES, best_of, run_screened, table
from student.statistics.intervals import Estimate
from teacher.records import Rewrite
from teacher.reward.best_of import FittedScreen

SMALL = ["lab.effort=0.02", "lab.base_people=16", "lab.train_people=48", "lab.heldout_people=16", "lab.curate_people=8"]


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_choosing_by_what_tells_the_gain_beats_the_mean_and_by_nothing_does_not(weight):
    generator = np.random.default_rng(0)
    documents = [Document("a b c", f"d{d}") for d in range(64)]
    lengths_DG = generator.integers(1, 9, (64, SAMPLES))
    groups = [
        [
            Rewrite(document_id="", strategy="copy", text=" ".join("w" * n), completion="", prompt="")
            for n in lengths_G.tolist()
        ]
        for lengths_G in lengths_DG
    ]
    gains_DG = [[[float(gain)] for gain in of_one] for of_one in weight * lengths_DG + generator.normal(size=(64, 4))]
    gains_DG[0] = [[], [], [], [1.0]]  # all but one were refused
    screen = FittedScreen(
        signs=("length",), names=("length", "strategy copy"), weights=(1.0, 0.0),
        correlation=Estimate(0.8, 0.7, 0.9), documents=64, spread=2.2, measure="loglik", student=None,
    )  # fmt: skip
    found = best_of(screen, documents, groups, gains_DG, together=8)
    lead, low, high, p = found["lead"]
    assert found["documents"] == 63
    if weight:
        assert low > 1.5 and p < 0.001 and lead < found["best_lead"] and found["interval_held"] > 0.9
    else:
        assert low < 0 < high


@pytest.mark.slow
def test_two_small_runs_are_held_against_each_other_and_kept(tmp_path):
    overrides = [f"lab.dir={tmp_path / 'lab'}", *SMALL, "rl.rounds=2", "rl.documents_per_round=16", "student.steps=4"]
    result = run_screened(tmp_path / "bench", [*overrides, "rl.evaluation_lessons=1", "student.device=cpu"])
    assert 0 < result["tokens"] <= 1 and set(result["arms"]) == {"all", "screened"}
    assert json.loads(json.dumps(result, allow_nan=False)) == result and "tokens" in table(result)
    assert run_screened(tmp_path / "bench", overrides) == result

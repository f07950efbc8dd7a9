"""The bench of the selection: its designs run, and the figures have the order that theory gives them."""

import json
import statistics

from curation.bench.selection import NOISES, run_bench, table


def test_the_level_holds_and_what_is_kept_is_worth_more_than_the_best_of_every_group():
    result = json.loads(json.dumps(run_bench(rounds=2), allow_nan=False))
    assert {line["noise"] for line in result["false_keep"]} == set(NOISES)
    assert all(line["without_level"] == 1.0 for line in result["false_keep"])
    assert 0.005 < statistics.fmean(line["rate"] for line in result["false_keep"]) < 0.05, "96 documents a design"
    weak, strong = result["power"][0], result["power"][-1]
    assert weak["kept"] < 0.2 < 0.7 < strong["kept"]
    assert strong["true_gain_without_level"] < strong["true_gain"] < 1.1 * strong["best"]
    equal, by_strategy, by_itself = result["pooled"]
    assert equal["kept"] < 0.12 and by_strategy["kept"] > 0.6
    # Where two lessons of the best strategies are taught, they stand out of those that were left out.
    assert equal["of_two"]["kept"] < 0.12 and by_strategy["of_two"]["kept"] > 0.6
    assert by_strategy["of_two"]["true_gain"] > 0.9 * by_strategy["true_gain"]
    assert by_strategy["regret"] < 0.5 * by_strategy["regret_alone"]
    assert by_itself["regret"] < 1.1 * by_itself["regret_alone"]
    assert "16 lessons, t3" in table(result)

from curation.bench.intervals import run_bench, table


def test_the_methods_in_use_cover_shares_near_the_ends_and_mark_what_they_do_not_reach():
    results = run_bench(40, lambda line: None)
    assert {"design", "clusters", "method", "coverage", "width", "out_of_reach"} <= results[0]._asdict().keys()
    found = {(result.design, result.clusters): result.coverage for result in results}
    for share in ("0.02", "0.98"):
        assert found[f"share {share}, correlation 0.3", 6] >= 0.9
    assert all(result.out_of_reach == (result.coverage < 0.93) for result in results)
    text = table(results)
    assert text.count("| design |") == len({result.family for result in results}) == 7
    assert "**" in text, "what is out of reach is bold"

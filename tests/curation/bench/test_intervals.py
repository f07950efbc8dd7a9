from curation.bench.intervals import run_bench, table


def test_the_methods_in_use_cover_where_those_before_did_not():
    results = run_bench(40, lambda line: None)
    assert {"design", "clusters", "method", "coverage", "width", "out_of_reach"} <= results[0]._asdict().keys()
    found = {(result.design, result.clusters, result.used): result.coverage for result in results}
    for share in ("0.02", "0.98"):
        design = f"share {share}, correlation 0.3"
        assert found[design, 6, True] >= 0.9 > 0.75 > found[design, 6, False]
    assert all(result.out_of_reach == (result.coverage < 0.93) for result in results)
    text = table(results)
    assert text.count("| design |") == len({result.family for result in results}) == 7
    assert "**" in text, "what is out of reach is bold"

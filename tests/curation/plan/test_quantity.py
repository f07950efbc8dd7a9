"""Numbers of a plan: values with intervals, and how they are known."""

import math

import pytest

from configs.errors import UserError
from curation.plan.gpus import DEVICES, beyond_sweep, find_device, student_seconds, writing_speed
from curation.plan.models import parameters_in_name
from curation.plan.quantity import Quantity, exact, mean_of, share_of


def test_a_product_is_as_sure_as_its_factors() -> None:
    a, b = Quantity(10.0, 8.0, 12.0, "measured"), Quantity(2.0, 1.9, 2.1, "assumed")
    found = a * b
    assert found.value == 20 and found.how == "assumed"
    # Relative errors of 20% and 5% add as independent ones do.
    assert found.high == pytest.approx(20 * (1 + math.hypot(0.2, 0.05)))
    assert found.low == pytest.approx(20 * (1 - math.hypot(0.2, 0.05)))
    assert exact(3) * exact(4) == exact(3) * 4 == exact(12)
    assert a * 0 == Quantity(0.0, 0.0, 0.0, "measured")
    nothing_kept = exact(100) * share_of(0, 50)
    assert nothing_kept.value == 0 and 5 < nothing_kept.high < 10, "what was never seen may still be there"


def test_a_sum_is_as_sure_as_its_terms() -> None:
    found = Quantity(10.0, 7.0, 13.0, "measured") + Quantity(20.0, 16.0, 24.0, "extrapolated")
    assert found == Quantity(30.0, 25.0, 35.0, "extrapolated")
    assert exact(1) + exact(2) + exact(3) == exact(6)


def test_division_swaps_the_bounds() -> None:
    assert exact(1) / Quantity(4.0, 2.0, 8.0, "assumed") == Quantity(0.25, 0.125, 0.5, "assumed")


def test_means_and_shares() -> None:
    found = mean_of([1.0, 2.0, 3.0, 4.0, 5.0] * 20)
    assert found.value == 3 and 2.6 < found.low < 3 < found.high < 3.4
    assert mean_of([7.0]) == exact(7.0, "measured"), "one value has no interval"
    assert share_of(0, 0) == Quantity(1.0, 0.0, 1.0, "assumed")
    all_of = share_of(30, 30)
    assert all_of.value == all_of.high == 1 and 0.85 < all_of.low < 0.95
    half = share_of(50, 100)
    assert half.value - half.low == pytest.approx(half.high - half.value, abs=1e-9)


def test_the_least_sure_quantity_says_how_all_are_known() -> None:
    assert (exact(1, "counted") * exact(1)).how == (exact(1, "counted") * 2).how == "calculated"
    assert (exact(1, "extrapolated") + exact(1, "assumed") + exact(1, "counted")).how == "assumed"


def test_a_device_is_found_by_any_spelling_or_the_nearest_is_named() -> None:
    assert find_device(" A100_80GB ").name == "a100-80gb"
    with pytest.raises(UserError, match=r"'h10'.*h100"):
        find_device("h10")


def test_models_of_the_sweep_are_as_fast_as_in_the_sweep() -> None:
    h100 = DEVICES["h100"]
    assert writing_speed(h100, 134.5e6) == (pytest.approx(0.40 * 45_500), pytest.approx(0.45 * 45_500))
    speeds = [writing_speed(h100, size)[0] for size in (1e8, 3e8, 1e9, 3e9, 8e9, 7e10)]
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[-1] == pytest.approx(writing_speed(h100, 7e11)[0] * 10), "far out it falls as the size grows"
    # Another GPU by the smaller of its ratios.
    assert writing_speed(DEVICES["h200"], 1e9) == writing_speed(h100, 1e9)
    assert writing_speed(DEVICES["l4"], 1e9)[1] == pytest.approx(writing_speed(h100, 1e9)[1] * 0.30 / 3.35)
    assert beyond_sweep(7e10) and beyond_sweep(1e6) and not beyond_sweep(8.19e9)


def test_training_all_weights_costs_more_than_training_an_adapter() -> None:
    h100 = DEVICES["h100"]
    # 4 FLOPs a parameter and token at 40% of 989 TFLOPs: the 18 ms of a 0.5B student on 3,500 tokens.
    assert student_seconds(h100, 0.5e9, 3500, full=False) == pytest.approx(0.0177, rel=0.01)
    assert student_seconds(h100, 1e9, 100, full=True) == 1.5 * student_seconds(h100, 1e9, 100, full=False)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Qwen/Qwen2.5-7B", 7e9), ("HuggingFaceTB/SmolLM2-135M-Instruct", 135e6), ("google/gemma-3-270m", 270e6),
        ("Qwen/Qwen3-0.6B-Base", 0.6e9), ("meta-llama/Llama-3.1-70B-Instruct", 70e9), ("my/teacher", None),
        ("org/model-v2", None), ("mistralai/Mixtral-8x7B", None),
    ],
)  # fmt: skip
def test_the_size_is_read_from_the_name(name: str, size: float | None) -> None:
    assert parameters_in_name(name) == size

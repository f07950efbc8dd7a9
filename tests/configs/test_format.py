"""Numbers and texts as a reader sees them."""

import json
import math

import pytest

from configs.format import amount, duration, interval, number, quantity, shorten, without_nan


def test_a_number_has_its_digits_and_zero_has_no_sign():
    assert [number(1.254), number(1.254, 3), number(5, 0), number(0.1, sign=True)] == ["1.25", "1.254", "5", "+0.10"]
    assert [number(-0.001), number(-0.001, sign=True), number(-0.0, 0)] == ["0.00", "+0.00", "0"]
    assert [number(None), number(math.nan), number(math.inf)] == ["-", "-", "-"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.5, -0.25, 1.25), "0.50 [-0.25, 1.25]"),
        ((0.5, math.nan, math.nan), "0.50"),
        ((0.5, None, None), "0.50"),
        ((math.nan, math.nan, math.nan), "-"),
        ((None, 0.1, 0.2), "-"),
    ],
)
def test_an_interval_stands_behind_its_mean_where_there_is_one(values, text):
    assert interval(*values) == text
    assert interval(0.5, -0.25, 1.25, 1, sign=True) == "+0.5 [-0.2, +1.2]"


def test_a_quantity_has_three_digits_and_a_unit():
    assert [quantity(x) for x in (0.0123, 7, 123.4, 9999, 12_345, 1.23e6, 4.5e9, 2e12)] == [
        "0.0123", "7", "123", "9999", "12.3K", "1.23M", "4.5B", "2T",
    ]  # fmt: skip


def test_an_amount_is_in_the_plural_but_of_one():
    assert [amount(1, "document"), amount(2000, "document"), amount(0, "batch")] == [
        "1 document", "2,000 documents", "0 batches",
    ]  # fmt: skip


def test_durations_are_in_minutes_and_seconds():
    assert [duration(4.4), duration(59.6), duration(3605)] == ["4 s", "1 min 00 s", "60 min 05 s"]


def test_a_text_is_cut_between_words():
    assert shorten("one two three", 13) == "one two three"
    assert shorten("one two three", 9) == "one two ..."


def test_what_json_has_no_form_for_is_null():
    values = {"a": math.nan, "b": [math.inf, 1.5], "c": {"d": (-math.inf, "x")}, "e": 3}
    assert (
        json.dumps(without_nan(values), allow_nan=False)
        == '{"a": null, "b": [null, 1.5], "c": {"d": [null, "x"]}, "e": 3}'
    )

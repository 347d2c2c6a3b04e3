"""Numbers as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.errors import UsageError
from tuner.units import parse_rate, rate_text, seconds_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("89.6GB/s", 89.6e9),
        ("89.6 gb/s", 89.6e9),
        ("90G", 90e9),
        ("51200 MB/s", 51.2e9),
        ("1.8TB/s", 1.8e12),
        ("80GiB/s", 80 * 2.0**30),
        ("25GBps", 25e9),
    ],
)
def test_a_bandwidth_with_its_unit(text: str, expected: float) -> None:
    assert parse_rate("--rate", text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("90", "has no unit"),
        ("89.6", "has no unit"),
        ("0GB/s", "at all"),
        ("-5GB/s", "is no bandwidth"),
        ("fast", "is no bandwidth"),
        ("", "is no bandwidth"),
        ("9999999TB/s", "more than any"),
        ("90Gbit/s", "is no bandwidth"),
    ],
)
def test_one_that_makes_no_sense_is_a_sentence(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as raised:
        parse_rate("--rate", text)
    assert "--rate" in str(raised.value)
    assert "89.6GB/s" in str(raised.value)


@given(st.floats(1e9, 1e13))
def test_what_is_shown_of_a_bandwidth_is_read_back(rate: float) -> None:
    """Within the digits that it is shown with."""
    assert parse_rate("--rate", rate_text(rate).replace(",", "")) == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"), (2.34, "2.3 s"), (9.94, "9.9 s"), (10, "10 s"), (45.4, "45 s"),
        (130, "130 s"), (599, "599 s"), (600, "10 min"), (725, "12 min"), (35_999, "600 min"),
        (36_000, "10 h"),
        (9_000_000, "2,500 h"),
    ],
)  # fmt: skip
def test_how_long_something_takes_has_two_or_three_digits(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text

"""The table that the tests print at their end says what they found."""

from __future__ import annotations

from tests.models.parity import ParityTable


def test_each_family_has_a_line_and_each_check_the_largest_difference() -> None:
    table = ParityTable()
    table.add("llama", "plain", "logits", 1e-6)
    table.add("llama", "tied", "logits", 3e-5)
    table.add("llama", "tied", "logits", 2e-5)
    table.add("gpt2", "plain", "greedy", 0.0)
    assert list(table.lines()) == [
        "family  logits      greedy",
        "gpt2    -           1: 0.0e+00",
        "llama   2: 3.0e-05  -",
    ]


def test_a_difference_that_is_no_number_is_shown() -> None:
    table = ParityTable()
    for error in (1e-6, float("nan"), 1e-6):
        table.add("llama", "plain", "logits", error)
    assert list(table.lines())[1] == "llama   1: nan"


def test_where_nothing_was_compared_there_is_no_table() -> None:
    assert list(ParityTable().lines()) == []

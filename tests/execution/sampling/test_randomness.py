"""A random number is a function of what it is for, and of nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.execution.randomness import Purpose, uniform


@pytest.mark.parametrize(
    ("seed", "position", "number"),
    [
        (0, 0, 0.011546754286331562),
        (42, 7, 0.4074136540795371),
        (2**63 - 1, 100, 0.9970688246859337),
    ],
)
def test_seeds_keep_their_numbers(seed: int, position: int, number: float) -> None:
    assert uniform(seed, 0, position) == number


@given(
    seed=st.integers(0, 2**64 - 1),
    sample=st.integers(0, 2**64 - 1),
    position=st.integers(0, 2**64 - 2),
    purpose=st.integers(0, 3),
)
def test_it_is_philox_as_numpy_has_it(seed: int, sample: int, position: int, purpose: int) -> None:
    words = np.random.Philox(key=seed + (sample << 64), counter=position).random_raw(4)
    assert uniform(seed, sample, position, purpose) == float(int(words[purpose]) >> 11) * 2.0**-53


def test_every_seed_sample_position_and_purpose_has_its_own_number() -> None:
    numbers = {
        uniform(seed, sample, position, purpose)
        for seed in range(8)
        for sample in range(6)
        for position in range(8)
        for purpose in range(4)
    }
    assert len(numbers) == 8 * 6 * 8 * 4
    assert all(0 <= number < 1 for number in numbers)
    assert 0.47 < sum(numbers) / len(numbers) < 0.53


def test_a_purpose_beyond_the_block_is_refused() -> None:
    for purpose in (-1, 4):
        with pytest.raises(ValueError, match="four words"):
            uniform(1, 0, 1, purpose)


def test_the_largest_seed_and_sample_are_accepted() -> None:
    assert uniform(2**64 - 1, 2**64 - 1, 1, Purpose.XTC) < 1

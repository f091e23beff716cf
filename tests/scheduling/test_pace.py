"""The law that step times follow is found, whatever else happens to the device."""

from __future__ import annotations

import random

import pytest

from server.scheduling.pace import Pace

PER_TOKEN, PER_ROW, PER_STEP = 0.0004, 0.002, 0.015


def law(tokens: int, rows: int) -> float:
    return PER_TOKEN * tokens + PER_ROW * rows + PER_STEP


def measured(steps: int, *, noise: float = 0.0, stall_every: int = 0) -> Pace:
    dice, pace = random.Random(0), Pace(3)
    for number in range(1, steps + 1):
        rows, tokens = dice.randint(0, 16), dice.choice([0, 0, 16, 64, 256])
        seconds = law(tokens, rows) * dice.uniform(1 - noise, 1 + noise)
        if stall_every and number % stall_every == 0:
            seconds *= 50
        pace.observe((tokens, rows, 1), seconds)
    return pace


def test_nothing_is_known_before_anything_ran() -> None:
    pace = Pace(3)
    assert not pace.known
    assert pace.seconds((512, 8, 1)) == 0.0


def test_the_law_is_found_from_steps_of_all_kinds() -> None:
    assert measured(200).weights == pytest.approx([PER_TOKEN, PER_ROW, PER_STEP], rel=0.02)


@pytest.mark.parametrize(("noise", "stall_every"), [(0.2, 0), (0.05, 25)], ids=["noise", "stalls"])
def test_noise_and_stalls_hardly_matter(noise: float, stall_every: int) -> None:
    pace = measured(400, noise=noise, stall_every=stall_every)
    for tokens, rows in ((0, 1), (0, 16), (256, 8)):
        assert pace.seconds((tokens, rows, 1)) == pytest.approx(law(tokens, rows), rel=0.25)


def test_the_first_prompt_already_tells_what_a_token_costs() -> None:
    pace = Pace(3)
    pace.observe((100, 0, 1), 0.05)
    assert pace.seconds((100, 0, 1)) == pytest.approx(0.05, rel=0.01)
    assert pace.weights[0] == pytest.approx(0.0005, rel=0.05)


def test_steps_that_are_all_alike_are_foreseen_though_their_parts_cannot_be_told_apart() -> None:
    pace = Pace(3)
    for _ in range(50):
        pace.observe((0, 8, 1), law(0, 8))
    assert pace.seconds((0, 8, 1)) == pytest.approx(law(0, 8), rel=0.01)


def test_a_device_that_became_slower_is_noticed() -> None:
    pace = measured(200)
    for _ in range(150):
        pace.observe((64, 4, 1), 10 * law(64, 4))
    assert pace.seconds((64, 4, 1)) == pytest.approx(10 * law(64, 4), rel=0.1)


def test_no_part_of_a_step_ever_takes_less_than_no_time() -> None:
    dice, pace = random.Random(1), Pace(3)
    for _ in range(300):
        pace.observe((dice.randint(0, 99), dice.randint(0, 9), 1), dice.expovariate(10))
        assert min(pace.weights) >= 0.0

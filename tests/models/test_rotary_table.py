"""Angles that are looked up are those that are computed, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.layers.rotary import FEWEST_KEPT, MOST_KEPT, RotaryEmbedding
from models.positions import DynamicScaling, Rotary

PLACES = ([0], [1023, 5, 5], [1024], [0, 1, MOST_KEPT - 1], [3, MOST_KEPT], [7, 1 << 20])
DYNAMIC = Rotary(theta=10000.0, size=None, scaling=DynamicScaling(factor=2.0, original_context=64))


def computed(rotary: RotaryEmbedding, positions: Tensor) -> Tensor:
    rotation = rotary(positions)
    return torch.stack((rotation.cos, rotation.sin))[:, :, 0]


@pytest.mark.parametrize("rotary", [Rotary(theta=10000.0, size=None), DYNAMIC])
@pytest.mark.parametrize("places", PLACES)
def test_any_places_have_the_angles_that_are_computed(rotary: Rotary, places: list[int]) -> None:
    embedding = RotaryEmbedding(rotary, 64)
    for some in ([2, 1], places, [2, 1]):  # the table grows in between
        positions = torch.tensor(some)
        assert torch.equal(embedding.look_up(positions), computed(embedding, positions))


def test_the_table_grows_by_doubling_and_not_for_ever() -> None:
    embedding = RotaryEmbedding(Rotary(theta=10000.0, size=None), 8)
    sizes = list[int]()
    for last in (1, FEWEST_KEPT - 1, FEWEST_KEPT, MOST_KEPT - 1, MOST_KEPT, 1 << 22):
        embedding.look_up(torch.tensor([last]))
        sizes.append(embedding._table.shape[1])
    assert sizes == [FEWEST_KEPT, FEWEST_KEPT, 2 * FEWEST_KEPT, MOST_KEPT, MOST_KEPT, MOST_KEPT]

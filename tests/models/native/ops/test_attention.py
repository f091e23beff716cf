"""Heads, the cache and attention: whole texts against the formula, in chunks against whole texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.layers.bias import alibi_slopes
from models.native.heads import Geometry, plain_heads
from models.native.library import Library
from models.native.structures import BiasKind, Format, Heads, NormKind
from tests.models.native.ops.operations import DTYPES, LIMITS, Norm, Texts, address, close, random

FLOATS = (Format.FLOAT32, Format.BFLOAT16)
DISTANCES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way that attention can be."""

    kv_heads: int = 2
    group: int = 3
    head_dim: int = 64
    format: Format = Format.FLOAT32
    causal: bool = True
    window: int = 0
    cap: float = math.inf
    clip: float = math.inf
    bias: BiasKind = BiasKind.NONE
    rotated: int = 0
    norm: NormKind = NormKind.NONE
    whole_norm: bool = False  # over all heads at once
    seed: int = 0

    @property
    def number(self) -> int:
        return self.kv_heads * self.group

    def width(self) -> int:
        return (self.number + 2 * self.kv_heads) * self.head_dim

    def texts(self, library: Library, lengths: Sequence[int]) -> Texts:
        heads = plain_heads(
            Geometry(heads=self.number, kv_heads=self.kv_heads, head_dim=self.head_dim, format=self.format),
            scale=self.head_dim**-0.5,
            causal=self.causal,
        )
        heads.window, heads.cap, heads.clip, heads.rotated = self.window, self.cap, self.clip, self.rotated
        kept = [*self._norm(heads), *self._bias(heads)]
        cosines, sines = self.angles(max(lengths))
        projected = [random(length, self.width(), seed=self.seed + i) for i, length in enumerate(lengths)]
        return Texts(
            library=library,
            heads=heads,
            projected=projected,
            cosines=cosines if self.rotated else None,
            sines=torch.cat((-sines[:, : self.rotated // 2], sines[:, self.rotated // 2 :]), 1),
            kept=kept,
            seed=self.seed,
        )

    def _norm(self, heads: Heads) -> list[Tensor]:
        heads.norm, heads.norm_eps = self.norm, 1e-5
        if self.norm is NormKind.NONE:
            return []
        heads.norm_span = 0 if self.whole_norm else self.head_dim
        query, key = self.norm_weights()
        heads.query_norm, heads.key_norm = address(query), address(key)
        return [query, key]

    def norm_weights(self) -> tuple[Tensor, Tensor]:
        query, key = (random(count * self.head_dim, seed=9) for count in (self.number, self.kv_heads))
        return query, key

    def _bias(self, heads: Heads) -> list[Tensor]:
        table = self.bias_table()
        heads.bias, heads.slopes = self.bias, address(table)
        heads.bias_scale, heads.distances = 0.5, DISTANCES
        return [table]

    def bias_table(self) -> Tensor:
        if self.bias is BiasKind.BY_DISTANCE:
            return random(self.number, 2 * DISTANCES + 1, seed=7)
        slopes = alibi_slopes(self.number)
        return slopes.bfloat16().float() if self.bias is BiasKind.ALIBI_ROUNDED else slopes

    def angles(self, length: int) -> tuple[Tensor, Tensor]:
        """[length, rotated], both halves alike."""
        steps = torch.arange(length)[:, None] * 0.7 ** torch.arange(self.rotated // 2)
        return steps.cos().repeat(1, 2), steps.sin().repeat(1, 2)


# ---- the formula, in float64


def oracle(case: Case, projected: Tensor) -> Tensor:
    """[T, (heads + 2 kv_heads) * head_dim] -> [T, heads, head_dim]"""
    sizes = [case.number * case.head_dim, *2 * [case.kv_heads * case.head_dim]]
    clipped = projected.double().clamp(-case.clip, case.clip)
    query, key, value = clipped.split_with_sizes(sizes, dim=1)
    weights = case.norm_weights()
    heads = [prepared(case, part, weight) for part, weight in zip((query, key), weights, strict=True)]
    # Queries and the cache are kept in the format: what is compared is what becomes of them.
    kept = [part.to(DTYPES[case.format]).double() for part in (*heads, value.view_as(heads[1]))]
    keys, values = (part.repeat_interleave(case.group, dim=1) for part in kept[1:])
    scores = torch.einsum("qhd,khd->hqk", kept[0], keys) * case.head_dim**-0.5
    if case.cap < math.inf:
        scores = (scores / case.cap).tanh() * case.cap
    scores = scores + bias_of(case, len(projected))
    scores = scores.masked_fill(~seen(case, len(projected)), -math.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)


def prepared(case: Case, rows: Tensor, weight: Tensor) -> Tensor:
    """Normed and turned: [T, heads * head_dim] -> [T, heads, head_dim]"""
    if case.norm is not NormKind.NONE:
        span = rows.shape[1] if case.whole_norm else case.head_dim
        normed = Norm(kind=case.norm)(rows.view(len(rows), -1, span)).flatten(1)
        rows = normed * weight
    heads = rows.reshape(len(rows), -1, case.head_dim)
    cosines, sines = (angle.double()[:, None] for angle in case.angles(len(rows)))
    turned, left = heads.split_with_sizes([case.rotated, case.head_dim - case.rotated], dim=2)
    first, second = turned.chunk(2, dim=2)
    turned = turned * cosines + torch.cat((-second, first), 2) * sines
    return torch.cat((turned, left), 2)


def bias_of(case: Case, length: int) -> Tensor:
    """[heads, T, T], or 0"""
    places = torch.arange(length)
    apart = places - places[:, None]
    table = case.bias_table()
    match case.bias:
        case BiasKind.ALIBI:
            return table.double()[:, None, None] * apart
        case BiasKind.ALIBI_ROUNDED:
            heights = (table[:, None].bfloat16() * places.bfloat16()).double()
            return (heights[:, None] - heights[:, :, None]) * 0.5
        case BiasKind.BY_DISTANCE:
            return table.double()[:, apart.clamp(-DISTANCES, DISTANCES) + DISTANCES]
    return torch.zeros(())


def seen(case: Case, length: int) -> Tensor:
    """[T, T]"""
    places = torch.arange(length)
    ahead = places - places[:, None]
    mask = ahead <= 0 if case.causal else torch.ones_like(ahead, dtype=torch.bool)
    if case.window:
        mask &= (ahead > -case.window) if case.causal else (ahead.abs() <= case.window)
    return mask


def check(library: Library, case: Case, lengths: Sequence[int]) -> None:
    texts = case.texts(library, lengths)
    for found, projected in zip(texts([lengths]), texts.projected, strict=True):
        close(found, oracle(case, projected), LIMITS[case.format])


# ---- tests

SHAPES = [(1, 9, 8), (1, 1, 256), (3, 2, 17), (2, 4, 40), (2, 5, 100), (1, 8, 80), (4, 1, 33), (3, 3, 64)]
WAYS: dict[str, Callable[[], Case]] = {
    "plain": Case,
    "all see all": lambda: Case(causal=False),
    "window": lambda: Case(window=37),
    "window both ways": lambda: Case(window=20, causal=False),
    "window of one": lambda: Case(window=1),
    "cap": lambda: Case(cap=3.0),
    "clip": lambda: Case(clip=0.7),
    "alibi": lambda: Case(bias=BiasKind.ALIBI),
    "alibi, rounded": lambda: Case(bias=BiasKind.ALIBI_ROUNDED),
    "by distance": lambda: Case(bias=BiasKind.BY_DISTANCE, causal=False),
    "by distance, causal": lambda: Case(bias=BiasKind.BY_DISTANCE),
    "turned": lambda: Case(rotated=64),
    "turned in part": lambda: Case(rotated=20),
    "norm of each head": lambda: Case(norm=NormKind.RMS, rotated=64),
    "norm of all heads": lambda: Case(norm=NormKind.LAYER, whole_norm=True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("format_", FLOATS)
def test_attention_equals_its_formula(library: Library, way: str, format_: Format) -> None:
    case = WAYS[way]()
    check(library, replace(case, format=format_), [300, 1, 16, 45])


@pytest.mark.parametrize(("kv_heads", "group", "head_dim"), SHAPES)
@pytest.mark.parametrize("format_", FLOATS)
def test_heads_of_any_number_and_size(
    library: Library, kv_heads: int, group: int, head_dim: int, format_: Format
) -> None:
    case = Case(kv_heads=kv_heads, group=group, head_dim=head_dim, format=format_)
    check(library, case, [19, 70])


@pytest.mark.parametrize("head_dim", [512, 1040])
def test_heads_larger_than_any_model_has(library: Library, head_dim: int) -> None:
    check(library, Case(kv_heads=1, group=2, head_dim=head_dim), [20])


@pytest.mark.parametrize("format_", FLOATS)
def test_contexts_of_several_chunks(library: Library, format_: Format) -> None:
    check(library, Case(kv_heads=1, head_dim=32, format=format_), [700, 256, 257, 512])


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=5),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 9),
    head_dim=st.integers(4, 70),
    causal=st.booleans(),
    window=st.sampled_from((0, 1, 5, 16, 33)),
    bias=st.sampled_from(BiasKind),
    format_=st.sampled_from(FLOATS),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_attention_of_any_shape_equals_its_formula(
    library: Library,
    lengths: list[int],
    kv_heads: int,
    group: int,
    head_dim: int,
    causal: bool,
    window: int,
    bias: BiasKind,
    format_: Format,
    seed: int,
) -> None:
    case = Case(
        kv_heads=kv_heads,
        group=group,
        head_dim=head_dim,
        causal=causal,
        window=window,
        bias=bias,
        format=format_,
        rotated=head_dim // 4 * 2,
        seed=seed,
    )
    check(library, case, lengths)


def schedules(lengths: Sequence[int]) -> dict[str, list[list[int]]]:
    """The same texts, computed in other steps."""
    first, second = lengths
    thirds = [first // 3, first // 3, first - 2 * (first // 3)]
    return {
        "each alone": [[first, 0], [0, second]],
        "chunks": [[thirds[0], second], [thirds[1], 0], [thirds[2], 0]],
        "one by one": [[first - 20, second - 20], *[[1, 1]] * 20],
        "ends alone": [[first - 1, 0], [1, second]],
    }


@pytest.mark.parametrize(
    "way", ["plain", "window", "cap", "alibi", "by distance, causal", "norm of each head"]
)
@pytest.mark.parametrize("format_", FLOATS)
@pytest.mark.parametrize("lengths", [(70, 33), (290, 530)])
def test_a_token_has_the_same_bits_in_any_schedule(
    library: Library, way: str, format_: Format, lengths: tuple[int, int]
) -> None:
    texts = replace(WAYS[way](), format=format_).texts(library, lengths)
    whole = texts([lengths])
    for name, schedule in schedules(lengths).items():
        for text, again in zip(whole, texts(schedule), strict=True):
            assert torch.equal(text, again), name


@pytest.mark.parametrize("way", ["all see all", "window both ways", "by distance", "norm of all heads"])
@pytest.mark.parametrize("format_", FLOATS)
def test_a_whole_text_has_the_same_bits_alone_and_in_any_company(
    library: Library, way: str, format_: Format
) -> None:
    """As those of encoders, whose tokens see what is behind them."""
    lengths = [290, 1, 33, 70]
    texts = replace(WAYS[way](), causal=False, format=format_).texts(library, lengths)
    alone = texts([[290, 0, 0, 0], [0, 1, 0, 0], [0, 0, 33, 0], [0, 0, 0, 70]])
    for schedule in ([lengths], [[290, 0, 33, 0], [0, 1, 0, 70]]):
        for text, again in zip(alone, texts(schedule), strict=True):
            assert torch.equal(text, again), schedule


def test_a_token_has_the_same_bits_on_any_number_of_threads(library: Library) -> None:
    texts = Case(format=Format.BFLOAT16).texts(library, (290, 33))
    whole = texts([(290, 33)])
    for threads in (1, 3, 2):
        assert library.start(library.name, threads)
        for text, again in zip(whole, texts([(290, 33)]), strict=True):
            assert torch.equal(text, again), threads


@pytest.mark.parametrize("head_dim", [16, 32, 48, 64, 80])
@pytest.mark.parametrize("format_", FLOATS)
def test_heads_straight_from_a_product_are_those_made_of_its_rows(
    library: Library, head_dim: int, format_: Format
) -> None:
    lengths = [1, 16, 3, 35, 70]
    texts = Case(head_dim=head_dim, format=format_).texts(library, lengths)
    schedule = [[1, 3, 0, 20, 70], [0, 13, 2, 15, 0], [0, 0, 1, 0, 0]]
    expected = texts(schedule)
    for straight in (replace(texts, straight=True)(schedule), replace(texts, straight=True)([lengths])):
        for found, wanted in zip(straight, expected, strict=True):
            assert torch.equal(found, wanted)

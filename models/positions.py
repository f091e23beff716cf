"""How a model may know where a token is: the choices, with what each needs. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A table of position vectors. Position p reads row p + `offset` of `rows` (RoBERTa, OPT, BART: 2)."""

    rows: int
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sinusoidal:
    """Sines, then cosines, of position p + `offset` at rates falling from 1 towards 1/10000.

    Vaswani et al. 2017, §3.5, with the halves side by side instead of interleaved. `inclusive`: the last
    rate is 1/10000 itself (fairseq: M2M100, NLLB), not the last before it (Marian, Pegasus).
    """

    offset: int = 0
    inclusive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling:
    """Every position is divided by `factor`: Chen et al. 2023, arXiv 2306.15595."""

    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicScaling:
    """Past `original_context` tokens the base grows with the position ("dynamic NTK", bloc97, emozilla 2023).

    The token at position p is turned as if the text ended with it, so that what is computed does not depend
    on how much of a text was computed at once.
    """

    factor: float
    original_context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
    """Low frequencies are divided by `factor`, high ones kept, those between blended: Llama 3.1.

    A frequency is low where its wavelength exceeds `original_context / low_frequency`, high where it is
    below `original_context / high_frequency`; both in tokens.
    """

    factor: float
    low_frequency: float
    high_frequency: float
    original_context: int

    def __post_init__(self) -> None:
        """ValueError where no frequency could lie between."""
        if self.low_frequency >= self.high_frequency:
            low, high = self.low_frequency, self.high_frequency
            raise ValueError(f"`low_freq_factor` {low} is not below `high_freq_factor` {high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
    """Peng et al. 2023, arXiv 2309.00071: as Llama 3's, but blended by the pair's number.

    Pairs that turn more than `fast_turns` times within `original_context` are kept, those that turn fewer
    than `slow_turns` times divided by `factor`. Cosines and sines are multiplied by `magnitude`.
    `whole_pairs`: the two bounds are rounded outwards to whole pairs.
    """

    factor: float
    original_context: int
    magnitude: float
    fast_turns: float = 32.0
    slow_turns: float = 1.0
    whole_pairs: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorScaling:
    """Each frequency is divided by its own factor: how GGUF stores the result of any of these rules.

    Cosines and sines are multiplied by `magnitude`.
    """

    factors: tuple[float, ...]  # one for each pair
    magnitude: float = 1.0


Scaling = LinearScaling | DynamicScaling | Llama3Scaling | YarnScaling | FactorScaling


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Rotary position embedding (Su et al. 2021) in the half-split layout of LLaMA; `theta` is its base.

    Only the first `size` elements of a head are turned (GPT-J, GPT-NeoX); None: all of them.
    """

    theta: float = 10_000.0
    size: int | None = None
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        """ValueError where the scaling cannot tell frequencies apart, as all are the same."""
        if isinstance(self.scaling, YarnScaling) and self.theta == 1.0:
            raise ValueError("`rope_theta` is 1: all pairs turn alike, and YaRN cannot scale them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alibi:
    """Scores fall with the distance, at a slope of each head's own: Press et al. 2021, arXiv 2108.12409.

    `scale` multiplies the slopes: Falcon divides them by sqrt(head size), as it does the scores. `rounded`:
    slopes, positions and their products are bfloat16, as Falcon was trained.
    """

    scale: float = 1.0
    rounded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Relative:
    """A learned number for each head and bucket of distances, added to the scores: Raffel et al. 2019, §2.1.

    Half of the `buckets` are for single distances, the others widen logarithmically up to `max_distance`.
    All layers share one table.
    """

    buckets: int = 32
    max_distance: int = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Disentangled:
    """Content and distance have vectors, and scores, of their own: DeBERTa, He et al. 2020, arXiv 2006.03654.

    Distances are counted singly up to `buckets / 2`, then in logarithmic steps up to `max_distance`; without
    `buckets` singly up to `max_distance`. `shared`: the content's query and key projections serve the
    distances too. `content_to_position`, `position_to_content`: which terms beside content to content.
    `norm`: the table of distances is layer-normalised.
    """

    buckets: int | None
    max_distance: int
    shared: bool
    content_to_position: bool
    position_to_content: bool
    norm: bool

    @property
    def rows(self) -> int:
        """Of the table of distances."""
        return 2 * (self.max_distance if self.buckets is None else self.buckets)

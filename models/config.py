"""What an architecture is made of, said with names. Numbers are counts of elements; no torch here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Norm(Enum):
    LAYER = "layer_norm"  # Ba, Kiros, Hinton 2016: centre, scale, shift
    RMS = "rms_norm"  # Zhang, Sennrich 2019: scale only


class Activation(Enum):
    GELU = "gelu"  # Hendrycks, Gimpel 2016, with the error function: BERT
    GELU_TANH = "gelu_tanh"  # its tanh approximation: GPT-2
    SILU = "silu"  # x * sigmoid(x): LLaMA
    RELU = "relu"  # the Transformer of 2017


class Mlp(Enum):
    PLAIN = "plain"  # down(act(up x))
    GATED = "gated"  # down(act(gate x) * up x): SwiGLU, Shazeer 2020


class Head(Enum):
    TIED = "tied"  # logits are inner products with the token embeddings: Press, Wolf 2017
    UNTIED = "untied"  # the head has a table of its own


class Bias(Enum):
    """Which linear layers add a bias."""

    QKV = "qkv"
    ATTENTION_OUT = "attention_out"
    MLP = "mlp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A table of position vectors. Position p reads row p + `offset` of `rows` (RoBERTa: offset 2)."""

    rows: int
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling:
    """Every position is divided by `factor`: Chen et al. 2023, arXiv 2306.15595."""

    factor: float


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


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorScaling:
    """Each frequency is divided by its own factor: how GGUF stores the result of any of these rules."""

    factors: tuple[float, ...]  # head_dim / 2 of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Rotary position embedding (Su et al. 2021) in the half-split layout of LLaMA; `theta` is its base."""

    theta: float = 10_000.0
    scaling: LinearScaling | Llama3Scaling | FactorScaling | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """A causal language model.

    `heads` query heads share `kv_heads` key/value heads of `head_dim` each (Ainslie et al. 2023).
    `window` is how many tokens a query sees, itself included; None: all before it.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_size: int
    context_length: int
    norm: Norm
    norm_eps: float
    mlp: Mlp
    activation: Activation
    positions: Learned | Rotary
    head: Head
    biases: frozenset[Bias] = frozenset()
    query_key_norm: bool = False  # RMSNorm over each head's query and key, before rotation: Qwen3
    window: int | None = None

    def __post_init__(self) -> None:
        """ValueError where the sizes contradict each other."""
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} query heads cannot share {self.kv_heads} key heads evenly")
        if isinstance(self.positions, Rotary) and self.head_dim % 2:
            raise ValueError(f"head size {self.head_dim} is odd: rotary positions turn pairs")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """A bidirectional encoder with post-norm blocks (BERT, Devlin et al. 2018).

    `segments` counts the token types that have a vector of their own; 0: the model has none.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    mlp_size: int
    context_length: int
    norm_eps: float
    activation: Activation
    positions: Learned
    segments: int = 0

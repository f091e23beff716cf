"""What an architecture is made of, said with names. Numbers are counts of elements; no torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from models.positions import Alibi, Disentangled, DynamicScaling, Learned, Relative, Rotary, Sinusoidal


class Norm(Enum):
    LAYER = "layer_norm"  # Ba, Kiros, Hinton 2016: centre, scale, shift
    LAYER_SCALED = "layer_norm_scaled"  # without the shift: Cohere, ModernBERT
    LAYER_BARE = "layer_norm_bare"  # without weights of any kind: OLMo
    RMS = "rms_norm"  # Zhang, Sennrich 2019: scale only
    RMS_OFFSET = "rms_norm_offset"  # its scale is 1 + weight: Gemma


class Activation(Enum):
    GELU = "gelu"  # Hendrycks, Gimpel 2016, with the error function: BERT
    GELU_TANH = "gelu_tanh"  # its tanh approximation: GPT-2
    GELU_SIGMOID = "gelu_sigmoid"  # x * sigmoid(1.702 x): the same paper
    SILU = "silu"  # x * sigmoid(x): LLaMA
    RELU = "relu"  # the Transformer of 2017
    RELU_SQUARED = "relu_squared"  # So et al. 2021, arXiv 2109.08668
    TANH = "tanh"


class Mlp(Enum):
    PLAIN = "plain"  # down(act(up x))
    GATED = "gated"  # down(act(gate x) * up x): SwiGLU, Shazeer 2020


class Residual(Enum):
    """How attention and MLP, as f, are joined to the stream x. Norms within, before or behind."""

    PRE = "pre"  # x + f(norm x): GPT-2, LLaMA
    POST = "post"  # norm(x + f x): the Transformer of 2017, BERT
    OUTPUT = "output"  # x + norm(f x): OLMo 2
    SANDWICH = "sandwich"  # x + norm(f(norm x)): Gemma 2
    PARALLEL = "parallel"  # x + attention(norm x) + mlp(norm' x): GPT-NeoX
    PARALLEL_SHARED = "parallel_shared"  # the same with one norm: GPT-J, PaLM, Falcon


class Head(Enum):
    TIED = "tied"  # logits are inner products with the token embeddings: Press, Wolf 2017
    UNTIED = "untied"  # the head has a table of its own


class Bias(Enum):
    """Which linear layers add a bias."""

    QKV = "qkv"
    ATTENTION_OUT = "attention_out"
    MLP = "mlp"
    HEAD = "head"


class Span(Enum):
    """What one norm of queries and keys goes over."""

    HEAD = "head"  # each head, all with the same weights: Qwen3
    HEADS = "heads"  # each head, with weights of its own: Cohere, StableLM
    ALL = "all"  # all heads together: OLMo 2


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryKeyNorm:
    """Queries and keys are normalised before rotation."""

    norm: Norm
    span: Span = Span.HEAD


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """`layers` that see only the neighbourhood, and may be turned by a rotary of their own (Gemma 3).

    A decoder's query sees the last `window` tokens, itself included; an encoder's those not more than
    `window` away on either side.
    """

    layers: frozenset[int]
    window: int
    rotary: Rotary | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """`groups` of layers that follow each other, each group with one set of weights: ALBERT.

    A layer runs its group's `blocks` one after the other.
    """

    groups: int
    blocks: int = 1


class Pooling(Enum):
    """How the vectors of a text's tokens become one."""

    CLS = "cls"  # the first: Devlin et al. 2018
    MAX = "max"  # the largest number at each place
    MEAN = "mean"  # Reimers, Gurevych 2019, arXiv 1908.10084
    MEAN_SQRT_LEN = "mean_sqrt_len_tokens"  # their sum by the square root of their number
    WEIGHTED_MEAN = "weightedmean"  # the n-th counts n times: SGPT, Muennighoff 2022
    LAST = "lasttoken"


class HeadTask(Enum):
    """What an encoder was given a head for."""

    MASKED_LM = "masked_lm"  # which token belongs at a place
    SEQUENCE = "sequence_classification"  # what a text, or a pair of texts, is
    TOKEN = "token_classification"  # what each token is
    SPAN = "question_answering"  # where an answer begins and ends
    REPLACED = "replaced_token_detection"  # whether a token has been replaced: ELECTRA's discriminator


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderHead:
    """What is put on top of hidden states h: ``W norm(act(V h + c)) + b``, and no more than ``W h + b``
    without `activation`.

    `pooling`: the tokens of a text become one row before that. `transform_bias`: there is a c; `bias`: a b.
    """

    activation: Activation | None = None
    norm: Norm | None = None
    pooling: Pooling | None = None
    transform_bias: bool = True
    bias: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StackConfig:
    """What every stack of blocks has, whichever way it looks. `scale` multiplies the scores of attention;
    None: 1 / sqrt(head size).

    `embedding_size`: of a token's vector before it is projected to `hidden_size`; None: the same.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    mlp_size: int
    context_length: int
    norm: Norm
    norm_eps: float
    mlp: Mlp
    activation: Activation
    residual: Residual
    biases: frozenset[Bias]
    embedding_size: int | None = None
    embedding_scale: float = 1.0
    embedding_norm: bool = False  # what goes into the first block is normalised: BLOOM, BART
    final_norm: bool = True  # what comes out of the last block is
    scale: float | None = None
    local: Local | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig(StackConfig):
    """A causal language model.

    `heads` query heads share `kv_heads` key/value heads of `head_dim` each (Ainslie et al. 2023). `cross`:
    each block also attends to an encoder's output, as in 2017.
    """

    residual: Residual = Residual.PRE
    biases: frozenset[Bias] = frozenset()
    kv_heads: int
    head_dim: int
    positions: Learned | Sinusoidal | Rotary | Alibi | Relative
    head: Head
    unplaced: frozenset[int] = frozenset()  # layers that are not told where tokens are: SmolLM3
    query_key_norm: QueryKeyNorm | None = None
    clip: float | None = None  # queries, keys and values are cut to this magnitude: OLMo
    score_cap: float | None = None  # scores s become cap * tanh(s / cap): Gemma 2
    logit_cap: float | None = None  # so do logits
    logit_scale: float = 1.0
    cross: bool = False

    def __post_init__(self) -> None:
        """ValueError where the sizes contradict each other."""
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} query heads cannot share {self.kv_heads} key heads evenly")
        _check_rotaries(self.rotaries, self.head_dim)
        _check_sines(self.positions, self.hidden_size)

    @property
    def rotaries(self) -> tuple[Rotary, ...]:
        """That of the layers that see everything, and that of the local ones."""
        return _rotaries(self.positions, self.local)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig(StackConfig):
    """A bidirectional encoder: BERT (Devlin et al. 2018) unless told otherwise.

    `segments` counts the token types that have a vector of their own; 0: the model has none. With an
    `embedding_size`, all vectors of a token are that long, summed and normalised before they are projected
    to `hidden_size` (ALBERT, ELECTRA). `first_norm`: whether the first block normalises what the embeddings'
    norm has just made. `sharing`: None where each layer has weights of its own.
    """

    norm: Norm = Norm.LAYER
    mlp: Mlp = Mlp.PLAIN
    residual: Residual = Residual.POST
    biases: frozenset[Bias] = frozenset({Bias.QKV, Bias.ATTENTION_OUT, Bias.MLP})
    embedding_norm: bool = True
    final_norm: bool = False
    head_dim: int | None = None  # None: hidden_size / heads
    positions: Learned | Sinusoidal | Rotary | None
    relative: Relative | Disentangled | None = None
    segments: int = 0
    first_norm: bool = True  # False: ModernBERT
    sharing: Sharing | None = None
    tasks: Mapping[HeadTask, EncoderHead] = field(default_factory=dict)  # what it may have heads for

    def __post_init__(self) -> None:
        """ValueError where the sizes contradict each other."""
        if self.head_dim is None and self.hidden_size % self.heads:
            raise ValueError(f"{self.heads} heads cannot share {self.hidden_size} elements evenly")
        _check_rotaries(self.rotaries, self.head_size)
        _check_sines(self.positions, self.embedding_size or self.hidden_size)

    @property
    def head_size(self) -> int:
        """Elements of a head."""
        return self.hidden_size // self.heads if self.head_dim is None else self.head_dim

    @property
    def rotaries(self) -> tuple[Rotary, ...]:
        """That of the layers that see everything, and that of the local ones."""
        return _rotaries(self.positions, self.local)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seq2SeqConfig:
    """An encoder, and a decoder that attends to what it says (Vaswani et al. 2017).

    `shared`: both look tokens up in one table. `start` is the token that every answer begins with.
    `logit_bias`: a bias on the logits beside the head, as Marian and BART have.
    """

    encoder: EncoderConfig
    decoder: DecoderConfig
    shared: bool
    start: int
    logit_bias: bool = False

    def __post_init__(self) -> None:
        """ValueError where the stacks do not fit each other, or no answer could begin."""
        source, answer = self.encoder, self.decoder
        if source.hidden_size != answer.hidden_size:
            raise ValueError(
                f"a decoder of {answer.hidden_size} cannot attend to {source.hidden_size} elements"
            )
        if self.shared and source.vocab_size != answer.vocab_size:
            raise ValueError(f"{source.vocab_size} and {answer.vocab_size} tokens cannot share a table")
        if self.start >= answer.vocab_size:
            raise ValueError(
                f"answers begin with token {self.start}; there are {answer.vocab_size} (`vocab_size`)"
            )

    @property
    def architecture(self) -> str:
        return self.decoder.architecture

    @property
    def vocab_size(self) -> int:
        return self.decoder.vocab_size

    @property
    def context_length(self) -> int:
        """Of the answer; that of the source is the encoder's."""
        return self.decoder.context_length


Config = DecoderConfig | EncoderConfig | Seq2SeqConfig


def _rotaries(positions: object, local: Local | None) -> tuple[Rotary, ...]:
    both = (positions, local.rotary if local else None)
    return tuple(one for one in both if isinstance(one, Rotary))


def _check_rotaries(rotaries: tuple[Rotary, ...], head_dim: int) -> None:
    for rotary in rotaries:
        size = head_dim if rotary.size is None else rotary.size
        if size % 2 or not 0 < size <= head_dim:
            raise ValueError(
                f"rotary positions cannot turn pairs of {size} of {head_dim} elements (`head_dim`)"
            )
        if size == 2 and isinstance(rotary.scaling, DynamicScaling):
            raise ValueError(
                "dynamic scaling keeps the first pair of a head (`head_dim`), and there is no other"
            )


def _check_sines(positions: object, size: int) -> None:
    if isinstance(positions, Sinusoidal) and size % 2:
        raise ValueError(f"sines and cosines cannot share {size} elements evenly")

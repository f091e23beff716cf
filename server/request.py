"""The vocabulary: what is asked, and what comes back. Every layer speaks it; none is named here."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Task(Enum):
    GENERATE = "generate"
    FILL_MASK = "fill-mask"
    EMBED = "embed"
    SUMMARIZE = "summarization"
    TRANSLATE = "translation"


class FinishReason(Enum):
    LENGTH = "length"  # as many tokens as were asked for, or as the context holds
    EOS = "eos"  # the model ended its text
    STOP = "stop"  # one of the request's stop strings or stop tokens appeared
    TIMEOUT = "timeout"  # its deadline passed: the text is what there was by then


class Stage(Enum):
    """A step of choosing a token, in the order that is followed unless a request gives its own.

    The first three change logits; the next narrow what may be chosen, `TEMPERATURE` flattens or sharpens.
    Bans (bad words, grammars, allowed tokens, a minimum length) are not stages: nothing may undo them.
    """

    PENALTIES = "penalties"  # repetition, presence, frequency
    DRY = "dry"
    TEMPERATURE = "temperature"
    TOP_N_SIGMA = "top_n_sigma"
    TOP_K = "top_k"
    TYPICAL_P = "typical_p"
    TOP_P = "top_p"
    MIN_P = "min_p"
    EPSILON_CUTOFF = "epsilon_cutoff"
    ETA_CUTOFF = "eta_cutoff"
    XTC = "xtc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dry:
    """Don't repeat yourself: a token that would lengthen a repeated run of n tokens, n >= `allowed_length`,
    loses `multiplier * base ** (n - allowed_length)`. A run never crosses one of the `breakers`.
    """

    multiplier: float
    base: float = 1.75
    allowed_length: int = 2
    window: int | None = None  # how many of the last tokens are searched; None: all
    breakers: tuple[int, ...] = ()  # tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirostat:
    """Version 2: keeps the surprise of each token near `tau` bits, learning at the rate `eta`."""

    tau: float = 5.0
    eta: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one token is chosen. What has its default asks for nothing, and costs nothing.

    `temperature` 0 is greedy. `seed` and `sample` (which of several of one request) key the counter-based
    generator: equal ones give equal text.
    """

    temperature: float = 1.0
    dynatemp_range: float = 0.0  # the temperature moves by so much either way, with the entropy
    dynatemp_exponent: float = 1.0
    top_n_sigma: float | None = None
    top_k: int | None = None
    typical_p: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: Mirostat | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_window: int | None = None  # how many of the last tokens these three look at; None: all
    no_repeat_ngram: int = 0
    dry: Dry | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token, what is added to its logit)
    bad_words: tuple[tuple[int, ...], ...] = ()  # token runs that must not be completed
    allowed_tokens: tuple[int, ...] | None = None
    min_new_tokens: int = 0  # before that, no stop token is chosen, and no stop string ends the text
    forced_first: int | None = None  # the only token allowed first
    forced_last: int | None = None  # and at the last place that `max_new_tokens` allows
    order: tuple[Stage, ...] = tuple(Stage)
    seed: int = 0
    sample: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


class EarlyStopping(Enum):
    """When a beam search that has completed as many texts as beams gives up those that still grow.

    What transformers calls `early_stopping`: True, False, "never".
    """

    AT_ONCE = "at_once"
    WHEN_UNLIKELY = "when_unlikely"  # the best of them, if it ended now, would be no better than any complete
    NEVER = "never"  # before none could become better: with a length penalty, at the greatest length there is


@dataclass(frozen=True, slots=True, kw_only=True)
class Beams:
    """Search for the most probable text, `width` of them side by side; the best comes whole, at the end.

    A text's score is the sum of its log-probabilities, after bias, bans and penalties, divided by its length
    to the power of `length_penalty`: above 0, long texts are preferred. It goes with greedy `Sampling` only,
    so not with what narrows a distribution or draws from one; nor with mirostat, nor with a grammar. Whatever
    biases, bans or penalizes tokens acts on each beam by its own text.
    """

    width: int  # 2 to 8
    length_penalty: float = 1.0  # -10 to 10
    early_stopping: EarlyStopping = EarlyStopping.WHEN_UNLIKELY

    def __post_init__(self) -> None:
        """ValueError where `width` or `length_penalty` is out of its range."""
        if not 2 <= self.width <= 8:
            raise ValueError(f"a beam search has 2 to 8 beams, not {self.width}")
        if not -10.0 <= self.length_penalty <= 10.0:
            raise ValueError(f"a length penalty is between -10 and 10, not {self.length_penalty}")


class GrammarKind(Enum):
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    EBNF = "ebnf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """What the text must be.

    `source` is a JSON schema, a regular expression, a JSON list of strings to choose from, or a grammar in
    Lark's EBNF.
    """

    kind: GrammarKind
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a request stands beside others; none of it changes the text."""

    tenant: str = ""  # a digest of the caller's API key: shares are fair between tenants
    priority: int = 0  # higher ones first
    timeout_s: float | None = None
    cache_salt: str = ""  # prompts are found again only under the same tenant and salt


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """`prompt` is text or token ids; `max_new_tokens` None means: as many as the context holds."""

    prompt: str | tuple[int, ...]
    sampling: Sampling
    model: str | None = None
    max_new_tokens: int | None = None  # 0: only the prompt is scored
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    include_stop: bool = False  # whether the text keeps the stop string that ended it
    ignore_eos: bool = False
    truncate: int | None = None  # keep only the last so many prompt tokens
    add_special_tokens: bool = True  # False where a chat template has written them already
    bad_words: tuple[str, ...] = ()
    dry_breakers: tuple[str, ...] = ()  # strings; tokens that end in one of them break a run
    alternatives: int = 0  # the most probable tokens to report beside each one
    prompt_alternatives: int | None = None  # as many for the tokens of the prompt; None: these are not scored
    grammar: Grammar | None = None
    beams: Beams | None = None
    lora: str | None = None  # the adapter to run with, by name
    source_language: str | None = (
        None  # of the prompt, and of the answer; as the model's tokenizer names them
    )
    target_language: str | None = None
    terms: Terms = field(default_factory=Terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A token that might have stood there, and what the model thought of it."""

    id: int
    text: str
    logprob: float
    special: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """`text` is what this token added to the stream; for a special token, its name.

    `logprob` is the model's own, before any penalty or temperature; None for a prompt's first token.
    """

    id: int
    text: str
    logprob: float | None
    special: bool = False
    alternatives: tuple[Alternative, ...] = ()  # most probable first


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    reason: FinishReason
    text: str  # everything generated, special tokens and the stop string left out
    prompt_tokens: int
    generated_tokens: int
    seed: int
    stop: str | int | None = None  # the stop string or stop token that ended it
    cached_tokens: int = 0  # of the prompt, found in the cache
    prompt_ids: tuple[int, ...] = ()
    output_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a stream. `finish` is set on the last one only; `prompt`, if asked for, on the first."""

    tokens: tuple[Token, ...]
    finish: Finish | None = None
    prompt: tuple[Token, ...] = ()

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens if not token.special)


@dataclass(frozen=True, slots=True, kw_only=True)
class FillMaskRequest:
    """`targets` restrict the candidates to these words; scores are not renormalised."""

    text: str
    model: str | None = None
    top_k: int = 5
    targets: tuple[str, ...] | None = None
    lora: str | None = None
    terms: Terms = field(default_factory=Terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskCandidate:
    score: float
    token: int
    token_str: str
    sequence: str


class Side(Enum):
    LEFT = "left"
    RIGHT = "right"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """One text to embed. `truncate` cuts what exceeds the model at `truncation_side` instead of refusing."""

    text: str | tuple[int, ...]
    model: str | None = None
    truncate: bool = False
    truncation_side: Side = Side.RIGHT
    normalize: bool = True
    dimensions: int | None = None
    lora: str | None = None
    terms: Terms = field(default_factory=Terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    vector: tuple[float, ...]
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskWork:
    """For an encoder: what stands at `positions`? `targets` are the only tokens of interest, if given."""

    positions: tuple[int, ...]
    top_k: int
    targets: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedWork:
    """For an encoder: the passage as one vector, its first `dimensions` numbers only if given."""

    normalize: bool = True
    dimensions: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a loaded model is, and can do.

    A model with one of its adapters has a card, too: the adapter's name, `parent` the model's.
    """

    name: str
    source: str
    architecture: str
    tasks: frozenset[Task]
    max_tokens: int  # of a text; for a decoder of prompt and answer together, by its context and KV cache
    vocab_size: int  # token ids are below it
    parameters: int
    dtype: str
    device: str
    fingerprint: str  # equal fingerprints promise equal text
    batch_invariant: bool  # whether a text is the same bit for bit alone and in any company
    embedding_size: int | None = None
    pooling: str | None = None
    source_tokens: int | None = None  # that an encoder reads before the decoder writes; None: it has none
    adapters: tuple[str, ...] = ()  # low-rank ones that it can run with, by name
    parent: str | None = None
    kernels: str = "torch"  # what computes: an instruction set of our own kernels, or PyTorch
    quantization: str | None = None  # of weights: "keep", "int8" or "int4", as `--quantize` says it
    start_token: int | None = None  # what such a decoder's text follows, unless its folder says otherwise

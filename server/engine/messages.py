"""What crosses between the HTTP process and the engine process: msgpack over a socketpair.

Each message is a frame: its length in four bytes, then its content. Decoding validates every field,
so that neither side can confuse the other.
"""

from __future__ import annotations

import struct

import msgspec

from server.request import Beams, EmbedWork, FinishReason, Grammar, MaskWork, ModelCard, Sampling
from server.scheduling.plan import Scored

LENGTH = struct.Struct(">I")


class _Message(msgspec.Struct, frozen=True, tag=True, array_like=True, forbid_unknown_fields=True):
    """Tagged by class name, sent as an array."""


class LoraSetup(msgspec.Struct, frozen=True, array_like=True):
    """A low-rank adapter to load with its model: a PEFT folder."""

    name: str
    path: str


class ModelSetup(msgspec.Struct, frozen=True, array_like=True):
    """One model to load: `path` is a folder or .gguf file, `adapter` a masked-LM adapter's folder."""

    name: str
    source: str
    path: str
    adapter: str | None = None
    loras: tuple[LoraSetup, ...] = ()


class Setup(_Message, frozen=True):
    """The first command, and sent once: what to load, and how. None and "auto" leave it to the device."""

    models: list[ModelSetup]
    device: str
    dtype: str
    kv_memory: int | None
    max_batch_tokens: int | None
    max_sequences: int
    itl_target_s: float
    speculation: bool
    threads: int | None = None
    kernels: str = "auto"
    quantize: str = "auto"
    cache: str = ""  # the folder of what is built once


class Standing(msgspec.Struct, frozen=True, array_like=True):
    """How a request stands beside others. `deadline` is in the monotonic clock, one for the whole machine."""

    tenant: str = ""
    priority: int = 0
    deadline: float | None = None
    salt: bytes = b""  # of the prefix cache


class Generate(_Message, frozen=True):
    """Continue `tokens` with `model`; every token comes back as it is sampled.

    `source` is what the encoder of an encoder-decoder reads; `tokens` then begin the decoder's text.
    """

    id: int
    model: str
    tokens: list[int]
    max_new_tokens: int
    sampling: Sampling
    stop_tokens: list[int]
    standing: Standing = Standing()
    alternatives: int = 0
    prompt_alternatives: int | None = None
    grammar: Grammar | None = None
    source: tuple[int, ...] = ()
    beams: Beams | None = None  # the tokens come all at once then, at the end
    lora: str | None = None  # the adapter to run with, as it was attached

    @property
    def prompt(self) -> tuple[int, ...]:
        """What was asked: the source, where an encoder reads it."""
        return self.source or tuple(self.tokens)


class FillMask(_Message, frozen=True):
    id: int
    model: str
    tokens: tuple[int, ...]
    work: MaskWork
    standing: Standing = Standing()
    lora: str | None = None


class Embed(_Message, frozen=True):
    id: int
    model: str
    tokens: tuple[int, ...]
    work: EmbedWork
    standing: Standing = Standing()
    lora: str | None = None


class Abort(_Message, frozen=True):
    """Forget a request; whatever of it is still under way is not answered."""

    id: int


class Attach(_Message, frozen=True):
    """Put the adapter in a PEFT folder into a model, as `lora`; `Attached` or `Refused` answers."""

    id: int
    model: str
    lora: str
    path: str


class Detach(_Message, frozen=True):
    """Forget an adapter. Nothing runs with it any more, and nothing is answered."""

    model: str
    lora: str


Command = Setup | Generate | FillMask | Embed | Abort | Attach | Detach


class Ready(_Message, frozen=True):
    """The models are loaded. The first message of an engine that comes up.

    `loras`: of each model the fingerprints with its adapters, by their names.
    """

    cards: list[ModelCard]
    loras: dict[str, dict[str, str]] = {}


class LoadFailed(_Message, frozen=True):
    """The models could not be loaded. The only message of an engine that does not come up."""

    reason: str


class Sampled(_Message, frozen=True):
    """What a step gave a sequence: new tokens, scores of its prompt, its end; any of them may be missing.

    By itself, outside of a step: the sequence ends here.
    """

    id: int
    tokens: tuple[Scored, ...]
    finish: FinishReason | None
    prompt: tuple[Scored, ...] = ()
    cached: int = 0  # tokens of the prompt that were found in the cache


class Vector(_Message, frozen=True):
    id: int
    values: tuple[float, ...]


class MaskScores(_Message, frozen=True):
    """For each mask its (token, score) candidates, best first."""

    id: int
    masks: tuple[tuple[tuple[int, float], ...], ...]


class Attached(_Message, frozen=True):
    """The adapter is there. The fingerprint is of the model with it."""

    id: int
    fingerprint: str


Answer = Sampled | Vector | MaskScores | Attached


class Load(msgspec.Struct, frozen=True, array_like=True):
    """How busy a model is, right after a step."""

    model: str
    running: int
    waiting: int
    preemptions: int = 0
    blocks_used: int = 0
    blocks_total: int = 0
    cached_tokens: int = 0  # of prompts, so far
    drafted_tokens: int = 0
    accepted_tokens: int = 0  # of those drafted


class Stepped(_Message, frozen=True):
    """What one step produced, for every request in it."""

    seconds: float
    load: Load
    answers: list[Answer]


class Idle(_Message, frozen=True):
    """There is nothing left to run: how busy each model is now, after what was aborted."""

    loads: list[Load]


class Failed(_Message, frozen=True):
    """These requests could not be run and are forgotten; the engine goes on."""

    ids: list[int]
    reason: str


class Refused(_Message, frozen=True):
    """This request is not taken on: what is wrong with it, or when to come back if nothing is."""

    id: int
    reason: str
    parameter: str | None = None
    retry_after_s: float | None = None


Event = Ready | LoadFailed | Stepped | Sampled | Idle | Failed | Refused | Attached

encode = msgspec.msgpack.Encoder().encode
decode_command = msgspec.msgpack.Decoder(Command).decode
decode_event = msgspec.msgpack.Decoder(Event).decode


def frame(message: Command | Event) -> bytes:
    content = encode(message)
    return LENGTH.pack(len(content)) + content

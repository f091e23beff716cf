"""What `/generate` and `/generate_stream` answer: TGI's documents, events and headers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server.api.edge import Answer
from server.api.generate_body import GenerateBody, GenerateParameters
from server.api.receipts import receipt
from server.request import Finish, FinishReason, GenerateRequest, ModelCard, Token

FINISH = {
    FinishReason.LENGTH: "length",
    FinishReason.EOS: "eos_token",
    FinishReason.STOP: "stop_sequence",
    FinishReason.TIMEOUT: "timeout",  # ours: TGI knows no deadlines
}

NO_TOKEN = Token(id=0, text="", logprob=None, special=True)
"""Carries the end of a stream whose deadline passed between two tokens: clients read one in every event."""

Sample = tuple[GenerateRequest, Answer]
"""What was asked, and what came of it."""

PARIS = {"id": 7042, "text": " Paris", "logprob": -0.25, "special": False}
WHOLE = {
    "generated_text": " Paris",
    "details": {
        "finish_reason": "length",
        "generated_tokens": 1,
        "seed": 42,
        "prefill": [],
        "tokens": [PARIS],
    },
}
EVENT = (
    "id: 4b1d:1\n"
    'data: {"index":1,"token":{"id":7042,"text":" Paris","logprob":-0.25,"special":false},'
    '"generated_text":" Paris","details":null}\n\n'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What is answered to one body, by one model."""

    body: GenerateBody
    card: ModelCard

    @property
    def _chosen(self) -> GenerateParameters:
        return self.body.chosen

    def document(self, best: Sample, others: Sequence[Sample]) -> dict[str, Any]:
        """The best sample; its details tell of the `others`."""
        request, answer = best
        document = {
            "generated_text": self._full_text(answer.finish),
            "details": self._all_details(best, others),
        }
        return document | self._receipt(request, answer.finish)

    def event(
        self, index: int, token: Token, request: GenerateRequest, finish: Finish | None
    ) -> dict[str, Any]:
        """One of a stream; `finish` makes it the last. `index` counts tokens from 1."""
        top = {"top_tokens": _top_tokens(token)} if self._chosen.top_n_tokens else {}
        event = {"index": index, "token": _token(token), **top}
        if finish is None:
            return event | {"generated_text": None, "details": None}
        details = None
        if self._chosen.detailed:
            details = _details(finish, request) | {"input_length": finish.prompt_tokens}
        ending = {"generated_text": self._full_text(finish), "details": details}
        return event | ending | self._receipt(request, finish)

    def headers(self, request: GenerateRequest) -> dict[str, str]:
        """TGI's, and `x-seed`: the seed used, given or drawn."""
        return {
            "x-compute-type": self.card.device,
            "x-compute-characters": str(len(self.body.inputs)),
            "x-seed": str(request.sampling.seed),
        }

    def _full_text(self, finish: Finish) -> str:
        return self.body.inputs + finish.text if self._chosen.return_full_text else finish.text

    def _receipt(self, request: GenerateRequest, finish: Finish) -> dict[str, Any]:
        return {"receipt": receipt(self.card, request, finish)} if self._chosen.receipt else {}

    def _all_details(self, best: Sample, others: Sequence[Sample]) -> dict[str, Any] | None:
        if not self._chosen.detailed:
            return None
        if not others:
            return self._whole_details(best)
        sequences = [
            {"generated_text": self._full_text(other[1].finish), **self._whole_details(other)}
            for other in others
        ]
        return self._whole_details(best) | {"best_of_sequences": sequences}

    def _whole_details(self, sample: Sample) -> dict[str, Any]:
        request, answer = sample
        details = _details(answer.finish, request) | {
            "prefill": [_prefill(token) for token in answer.prompt],
            "tokens": [_token(token) for token in answer.tokens],
        }
        if self._chosen.top_n_tokens:
            details["top_tokens"] = [_top_tokens(token) for token in answer.tokens]
        return details


def _details(finish: Finish, request: GenerateRequest) -> dict[str, Any]:
    return {
        "finish_reason": FINISH[finish.reason],
        "generated_tokens": finish.generated_tokens,
        "seed": None if request.sampling.greedy else finish.seed,
    }


def _token(token: Token) -> dict[str, Any]:
    return {"id": token.id, "text": token.text, "logprob": token.logprob, "special": token.special}


def _prefill(token: Token) -> dict[str, Any]:
    return {"id": token.id, "text": token.text, "logprob": token.logprob}


def _top_tokens(token: Token) -> list[dict[str, Any]]:
    return [
        {
            "id": other.id,
            "text": other.text,
            "logprob": other.logprob,
            "special": other.special,
        }
        for other in token.alternatives
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Readings of one clock, in seconds."""

    began: float
    admitted: float
    ended: float

    def headers(self, finish: Finish) -> dict[str, str]:
        """TGI's, in milliseconds but for `x-compute-time`; and `x-cached-tokens`, of the prompt.

        The engine's queue counts as inference.
        """
        total_s = self.ended - self.began
        inference_ms = (self.ended - self.admitted) * 1000
        return {
            "x-compute-time": f"{total_s:.3f}",
            "x-total-time": f"{total_s * 1000:.0f}",
            "x-validation-time": f"{(self.admitted - self.began) * 1000:.0f}",
            "x-inference-time": f"{inference_ms:.0f}",
            "x-time-per-token": f"{inference_ms / max(finish.generated_tokens, 1):.0f}",
            "x-prompt-tokens": str(finish.prompt_tokens),
            "x-generated-tokens": str(finish.generated_tokens),
            "x-cached-tokens": str(finish.cached_tokens),
        }

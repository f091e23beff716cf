"""Several samples of one request: distinct, reproducible, and ranked by what the model thinks of them."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

from server.api.edge import Answer
from server.errors import InvalidRequest
from server.request import GenerateRequest


def samples(request: GenerateRequest, count: int) -> list[GenerateRequest]:
    """The request `count` times. Number i draws by (seed, i): the first says what it says when alone.

    Raises InvalidRequest for several of a beam search, which draws nothing.
    """
    if request.beams is not None and count > 1:
        raise InvalidRequest("`num_beams` finds one text: it does not go with several", parameter="num_beams")
    return [replace(request, sampling=replace(request.sampling, sample=i)) for i in range(count)]


def mean_logprob(answer: Answer) -> float:
    """Of the answer's tokens; higher is likelier. An answer without tokens is the least likely."""
    logprobs = [token.logprob for token in answer.tokens if token.logprob is not None]
    return fmean(logprobs) if logprobs else float("-inf")

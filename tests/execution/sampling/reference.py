"""Every sampler by its definition: in float64, over the whole vocabulary, one loop at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.execution.sampling import Row
from server.request import Dry, Sampling, Stage

Values = NDArray[np.float64]
Kept = NDArray[np.bool_]
GONE = -np.inf


def probabilities(logits: Values) -> Values:
    weights = np.exp(logits - logits.max())
    p: Values = weights / weights.sum()
    return p


def final_logits(logits: Values, row: Row, coin: float) -> Values:
    """What is left of `logits` [vocabulary] after bias, bans and stages; `coin` is XTC's."""
    logits = biased(logits, row.sampling)
    logits = banned(logits, row)
    for stage in dict.fromkeys(row.sampling.order):
        logits = act(stage, logits, row, coin)
    if row.sampling.mirostat is not None and not row.sampling.greedy:
        logits = mirostat(logits, row)
    return logits


def act(stage: Stage, logits: Values, row: Row, coin: float) -> Values:
    sampling = row.sampling
    if stage is Stage.PENALTIES:
        return penalized(logits, row)
    if stage is Stage.DRY:
        return logits if sampling.dry is None else dried(logits, row.tokens, sampling.dry)
    if sampling.greedy:
        return logits
    if stage is Stage.TEMPERATURE:
        return tempered(logits, sampling)
    return logits if sampling.mirostat is not None else narrowed(stage, logits, sampling, coin)


def biased(logits: Values, sampling: Sampling) -> Values:
    logits = logits.copy()
    for token, value in sampling.logit_bias:
        if value != GONE:
            logits[token] += value
    return logits


def banned(logits: Values, row: Row) -> Values:
    for forbidden in (
        outside(row.sampling.allowed_tokens, len(logits)),
        {token for token, value in row.sampling.logit_bias if value == GONE},
        bad_words(row),
        ngrams(row),
        set(row.stop_tokens) if len(row.tokens) - row.prompt_length < row.sampling.min_new_tokens else set(),
    ):
        tried = logits.copy()
        tried[list(forbidden)] = GONE
        if tried.max() > GONE:
            logits = tried
    return logits


def outside(allowed: Sequence[int] | None, vocabulary: int) -> set[int]:
    return set() if allowed is None else set(range(vocabulary)) - set(allowed)


def bad_words(row: Row) -> set[int]:
    text = tuple(row.tokens)
    words = row.sampling.bad_words
    return {word[-1] for word in words if (*text, word[-1])[-len(word) :] == word}


def ngrams(row: Row) -> set[int]:
    size, text = row.sampling.no_repeat_ngram, list(row.tokens)
    if not size:
        return set()
    grams = [text[i : i + size] for i in range(len(text) - size + 1)]
    return {gram[-1] for gram in grams if gram[:-1] == text[len(text) - size + 1 :]}


def penalized(logits: Values, row: Row) -> Values:
    sampling, text = row.sampling, list(row.tokens)
    start = 0 if sampling.penalty_window is None else max(0, len(text) - sampling.penalty_window)
    output = text[max(start, row.prompt_length) :]
    logits = logits.copy()
    for token in set(text[start:]):
        if logits[token] > 0:
            logits[token] /= sampling.repetition_penalty
        else:
            logits[token] *= sampling.repetition_penalty
        if token in output:
            logits[token] -= sampling.presence_penalty
        logits[token] -= output.count(token) * sampling.frequency_penalty
    return logits


def dried(logits: Values, tokens: Sequence[int], dry: Dry) -> Values:
    """Compare the text's end with every earlier place, token by token."""
    text = list(tokens if dry.window is None else tokens[max(0, len(tokens) - dry.window) :])
    logits = logits.copy()
    lengths: dict[int, int] = {}
    for place in range(1, len(text)):
        length = 0
        while (
            length < place
            and text[place - 1 - length] == text[len(text) - 1 - length]
            and text[place - 1 - length] not in dry.breakers
        ):
            length += 1
        if length >= dry.allowed_length and text[place] not in dry.breakers:
            lengths[text[place]] = max(length, lengths.get(text[place], 0))
    for token, length in lengths.items():
        logits[token] -= dry.multiplier * dry.base ** (length - dry.allowed_length)
    return logits


def entropy(logits: Values) -> float:
    return -math.fsum(p * math.log(p) for p in probabilities(logits).tolist() if p > 0)


def tempered(logits: Values, sampling: Sampling) -> Values:
    temperature, count = sampling.temperature, int((logits > GONE).sum())
    if sampling.dynatemp_range > 0:
        flat = entropy(logits) / math.log(count) if count > 1 else 0.0
        low = max(0.0, temperature - sampling.dynatemp_range)
        high = temperature + sampling.dynatemp_range
        temperature = max(low + (high - low) * flat**sampling.dynatemp_exponent, 1e-6)
    return logits / temperature


def narrowed(stage: Stage, logits: Values, sampling: Sampling, coin: float) -> Values:
    kept = keeps(stage, logits, sampling, coin)
    return np.where(kept & (logits > GONE), logits, GONE)


def keeps(stage: Stage, logits: Values, sampling: Sampling, coin: float) -> Kept:
    match stage:
        case Stage.TOP_N_SIGMA:
            return top_n_sigma(logits, sampling.top_n_sigma)
        case Stage.TOP_K:
            return rank(-logits) < (len(logits) if sampling.top_k is None else sampling.top_k)
        case Stage.TYPICAL_P:
            return typical(logits, sampling.typical_p)
        case Stage.TOP_P:
            return nucleus(-logits, probabilities(logits), sampling.top_p)
        case Stage.MIN_P:
            return at_least(logits, sampling.min_p * probabilities(logits).max())
        case Stage.EPSILON_CUTOFF:
            return at_least(logits, sampling.epsilon_cutoff)
        case Stage.ETA_CUTOFF:
            epsilon = sampling.eta_cutoff
            return at_least(logits, min(epsilon, math.sqrt(epsilon) * math.exp(-entropy(logits))))
        case _:
            return xtc(logits, sampling, coin)


def rank(cost: Values) -> NDArray[np.int64]:
    """The place of each in rising order of cost, equals by index."""
    return cost.argsort(kind="stable").argsort()


def nucleus(cost: Values, p: Values, mass: float) -> Kept:
    """The first ones in order of cost that weigh `mass` together."""
    if mass >= 1:
        return np.ones(len(p), dtype=bool)
    order = cost.argsort(kind="stable")
    before = np.concatenate([[0.0], p[order].cumsum()[:-1]])
    kept: Kept = (before < mass)[rank(cost)]
    return kept


def typical(logits: Values, mass: float) -> Kept:
    p = probabilities(logits)
    with np.errstate(divide="ignore"):
        return nucleus(np.abs(-np.log(p) - entropy(logits)), p, mass)


def top_n_sigma(logits: Values, n: float | None) -> Kept:
    if n is None:
        return np.ones(len(logits), dtype=bool)
    kept: Kept = logits >= logits.max() - n * logits[logits > GONE].std()
    return kept


def at_least(logits: Values, threshold: float) -> Kept:
    p = probabilities(logits)
    kept: Kept = p >= min(threshold, p.max())
    return kept


def xtc(logits: Values, sampling: Sampling, coin: float) -> Kept:
    p = probabilities(logits)
    top = p >= sampling.xtc_threshold
    kept = np.ones(len(p), dtype=bool)
    if coin < sampling.xtc_probability and top.sum() > 1:
        kept = ~top
        kept[np.flatnonzero(top)[(-p[top]).argsort(kind="stable")[-1]]] = True
    return kept


def mirostat(logits: Values, row: Row) -> Values:
    assert row.sampling.mirostat is not None
    bound = 2 * row.sampling.mirostat.tau if row.surprise is None else row.surprise
    with np.errstate(divide="ignore"):
        surprises = -np.log2(probabilities(logits))
    return np.where(surprises <= max(bound, surprises.min()), logits, GONE)

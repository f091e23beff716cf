"""Which stages a row asks for, in which order, and on what they work.

As long as nothing has narrowed the distribution, penalties and temperature change the row of all logits.
From the first stage that narrows, all work on a list of candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

from torch import Tensor

from server.execution.sampling import truncation
from server.execution.sampling.bans import restricts
from server.execution.sampling.candidates import Candidates
from server.execution.sampling.dry import dry_penalty
from server.execution.sampling.penalties import penalty
from server.execution.sampling.row import Row
from server.execution.sampling.temperature import temperature
from server.execution.sampling.whole import Whole
from server.request import Sampling, Stage

CHANGES = frozenset({Stage.PENALTIES, Stage.DRY, Stage.TEMPERATURE})  # logits; the others narrow

ASKED: dict[Stage, Callable[[Sampling], bool]] = {
    Stage.PENALTIES: lambda s: (
        s.repetition_penalty != 1.0 or s.presence_penalty != 0.0 or s.frequency_penalty != 0.0
    ),
    Stage.DRY: lambda s: s.dry is not None and s.dry.multiplier != 0.0,
    Stage.TEMPERATURE: lambda s: not s.greedy and (s.temperature != 1.0 or s.dynatemp_range > 0.0),
    Stage.TOP_N_SIGMA: lambda s: s.top_n_sigma is not None,
    Stage.TOP_K: lambda s: s.top_k is not None,
    Stage.TYPICAL_P: lambda s: s.typical_p < 1.0,
    Stage.TOP_P: lambda s: s.top_p < 1.0,
    Stage.MIN_P: lambda s: s.min_p > 0.0,
    Stage.EPSILON_CUTOFF: lambda s: s.epsilon_cutoff > 0.0,
    Stage.ETA_CUTOFF: lambda s: s.eta_cutoff > 0.0,
    Stage.XTC: lambda s: s.xtc_probability > 0.0,
}


PENALTIES = {Stage.PENALTIES: penalty, Stage.DRY: dry_penalty}

NARROWS: dict[Stage, Callable[[Candidates, Row], Candidates]] = {
    Stage.TOP_N_SIGMA: truncation.top_n_sigma,
    Stage.TOP_K: truncation.top_k,
    Stage.TYPICAL_P: truncation.typical_p,
    Stage.TOP_P: truncation.top_p,
    Stage.MIN_P: truncation.min_p,
    Stage.EPSILON_CUTOFF: truncation.epsilon_cutoff,
    Stage.ETA_CUTOFF: truncation.eta_cutoff,
    Stage.XTC: truncation.xtc,
}


def asked(sampling: Sampling) -> tuple[Stage, ...]:
    """The stages that do something, in their order, each once."""
    narrows = not sampling.greedy and sampling.mirostat is None
    some = [stage for stage, is_asked in ASKED.items() if is_asked(sampling) and stage in sampling.order]
    wanted = some if narrows else [stage for stage in some if stage in CHANGES]
    return tuple(sorted(wanted, key=sampling.order.index))


def split(stages: Sequence[Stage]) -> tuple[Sequence[Stage], Sequence[Stage]]:
    """Those before the first that narrows, and the others."""
    first = sum(1 for _ in takewhile(CHANGES.__contains__, stages))
    return stages[:first], stages[first:]


def row_divisor(row: Row, changes: Sequence[Stage]) -> float | None:
    """What its logits are divided by, where that is all that bans and `changes` do to them; else None."""
    if restricts(row) or len(changes) > 1 or row.sampling.dynatemp_range > 0.0:
        return None
    if not changes:
        return 1.0
    return temperature(row.sampling, lambda: 1.0) if changes[0] is Stage.TEMPERATURE else None


def change_row(scores: Tensor, row: Row, stage: Stage) -> None:
    """Let one of `CHANGES` act in place on all logits, `scores` [vocabulary] float32."""
    if stage is Stage.TEMPERATURE:
        scores /= temperature(row.sampling, lambda: Whole.of(scores).flatness())
    else:
        PENALTIES[stage](row).change_row(scores)


def change_list(candidates: Candidates, row: Row, stage: Stage) -> Candidates:
    """Let one of `CHANGES` act on candidates: on all that is left, as what is changed may change places."""
    candidates.require_all()
    tokens, logits = candidates.tokens, candidates.logits
    if stage is Stage.TEMPERATURE:
        return Candidates.reweighed(tokens, logits / temperature(row.sampling, candidates.flatness))
    return Candidates.reweighed(tokens, PENALTIES[stage](row).change_some(logits, tokens))


def follow(candidates: Candidates, row: Row, stages: Sequence[Stage]) -> Candidates:
    """Let `stages` act on candidates, one after the other."""
    for stage in stages:
        if stage in CHANGES:
            candidates = change_list(candidates, row, stage)
        else:
            candidates = NARROWS[stage](candidates, row)
    return candidates

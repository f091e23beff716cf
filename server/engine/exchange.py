"""Between messages and the scheduler: commands as what it queues, results as what requests are answered."""

from __future__ import annotations

from collections.abc import Iterator

from server.engine import messages
from server.engine.messages import Embed, FillMask, Generate, Standing
from server.scheduling.plan import DecodeStep, Results, Sampled, Scored, Step
from server.scheduling.sequence import Passage, Sequence


def to_sequence(command: Generate) -> Sequence:
    """As it joins the queue: nothing computed, nothing held."""
    standing = command.standing
    return Sequence(
        id=command.id,
        source=command.source,
        tokens=command.tokens,
        max_new_tokens=command.max_new_tokens,
        sampling=command.sampling,
        stop_tokens=frozenset(command.stop_tokens),
        tenant=standing.tenant,
        priority=standing.priority,
        deadline=_deadline(standing),
        salt=_salt(command),
        alternatives=command.alternatives,
        prompt_alternatives=command.prompt_alternatives,
        constrained=command.grammar is not None,
        beams=command.beams,
        lora=command.lora,
    )


def to_passage(command: FillMask | Embed) -> Passage:
    """As it joins the queue."""
    return Passage(
        id=command.id,
        tokens=command.tokens,
        work=command.work,
        lora=command.lora,
        tenant=command.standing.tenant,
        priority=command.standing.priority,
        deadline=_deadline(command.standing),
    )


def _salt(command: Generate) -> bytes:
    """What a prompt comes to depends on the adapter, so it is found again only under the same one."""
    salt = command.standing.salt
    return salt if command.lora is None else f"lora {len(command.lora)} {command.lora} ".encode() + salt


def _deadline(standing: Standing) -> float:
    return float("inf") if standing.deadline is None else standing.deadline


def check_complete(step: Step, results: Results) -> None:
    """Raises ValueError where something is not answered: it would wait for ever, or stop the whole loop."""
    if isinstance(step, DecodeStep):
        said = {id_ for id_, sampled in results.sampled.items() if sampled.tokens}
        said |= {id_ for id_, continuations in results.continued.items() if continuations}
        sampling = [piece.sequence.id for piece in step.slices if piece.samples]
        unanswered = [id_ for id_ in sampling if id_ not in said]
    else:
        unanswered = [id_ for id_ in step.ids if id_ not in results.encoded]
    if unanswered:
        raise ValueError(f"the runner has no results for {len(unanswered)} of {len(step.ids)} requests")


def answers(step: Step, results: Results) -> Iterator[messages.Answer]:
    """What a step says to its requests, after the scheduler has recorded it."""
    return _sampled(step, results) if isinstance(step, DecodeStep) else _encoded(results)


def _sampled(step: DecodeStep, results: Results) -> Iterator[messages.Answer]:
    """Of who has failed, nothing."""
    for piece in step.slices:
        sequence = piece.sequence
        sampled, prompt = results.sampled.get(sequence.id), results.prompt.get(sequence.id, ())
        if sampled is not None and sampled.failure is not None:
            continue
        finish = sequence.finish_reason
        if sampled is not None or prompt or finish is not None:
            said = _said(sequence, sampled)
            yield messages.Sampled(sequence.id, said, finish, prompt, sequence.cached or 0)


def _said(sequence: Sequence, sampled: Sampled | None) -> tuple[Scored, ...]:
    """Of what was sampled, only what the scheduler let stand; a search says all at once, when it is over."""
    if sequence.search is not None:
        return sequence.search.best
    return () if sampled is None else sampled.tokens[: sequence.appended]


def _encoded(results: Results) -> Iterator[messages.Answer]:
    for id_, one in results.encoded.items():
        yield messages.MaskScores(id_, one.masks) if one.masks else messages.Vector(id_, one.vector)

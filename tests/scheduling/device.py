"""A device that is a few lines of Python: what it says next depends on the tokens so far, on nothing else."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from random import Random

from server.scheduling.beams import Search
from server.scheduling.plan import (
    Continuation,
    DecodeStep,
    Encoded,
    EncodeStep,
    Results,
    Sampled,
    Scored,
    Slice,
    Step,
)
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Passage, Sequence

Model = Callable[[Seq[int]], int]

BEAM_VOCABULARY = 13
STEP_S, ROW_S, TOKEN_S = 0.010, 0.001, 0.0005


def parrot(tokens: Seq[int]) -> int:
    """Repeats what is three tokens back, more or less: its drafts sometimes stand."""
    return (tokens[-3] if len(tokens) > 2 else tokens[-1]) + (sum(tokens) % 7 == 0)


def counter(tokens: Seq[int]) -> int:
    """Never says anything twice: no draft stands, were there any."""
    return tokens[-1] + 1


class Device:
    """Keeps the tokens that each block holds, and answers from these alone, as a KV cache would.

    A source is in blocks, too: the model sees it before the text. So is what each branch of a search said.
    """

    def __init__(self, model: Model = counter, block_size: int = 4) -> None:
        self._model = model
        self._block_size = block_size
        self._cache = dict[tuple[int, int], int]()  # (block, place in it) -> token
        self.computed_tokens = 0

    def run(self, step: Step) -> Results:
        self.computed_tokens += step.num_tokens
        if isinstance(step, EncodeStep):
            return Results(encoded={id_: Encoded(vector=(1.0,)) for id_ in step.ids})
        for piece in step.slices:
            self._copy(piece.copies)
        for piece in step.slices:
            self._write(piece)
        sampling = [piece for piece in step.slices if piece.samples]
        return Results(
            sampled={one.sequence.id: self._sample(one) for one in sampling if one.sequence.beams is None},
            continued={one.sequence.id: self._continue(one) for one in sampling if one.sequence.beams},
            prompt={piece.sequence.id: _scores(piece) for piece in step.slices},
        )

    def _copy(self, pairs: Seq[tuple[int, int]]) -> None:
        for read, written in pairs:
            for place in range(self._block_size):
                self._cache[written, place] = self._cache.get((read, place), -1)

    def _write(self, piece: Slice) -> None:
        if piece.encodes:
            self._put(piece.sequence.memory, 0, piece.sequence.source)
        for run in piece.runs:
            self._put(run.table, run.start, run.tokens)

    def _put(self, table: Seq[int], start: int, tokens: Seq[int]) -> None:
        for place, token in enumerate(tokens, start=start):
            self._cache[table[place // self._block_size], place % self._block_size] = token

    def _get(self, table: Seq[int], count: int) -> list[int]:
        size = self._block_size
        return [self._cache[table[place // size], place % size] for place in range(count)]

    def _continue(self, piece: Slice) -> tuple[Continuation, ...]:
        sequence = piece.sequence
        source = self._get(sequence.memory, len(sequence.source))
        texts = [[*source, *self._get(run.table, piece.end)] for run in piece.runs]
        search = sequence.search
        scores = [0.0] if search is None else [branch.score for branch in search.branches]
        return continuations(texts, scores, sequence)

    def _sample(self, piece: Slice) -> Sampled:
        """Reads the whole context back from its blocks, whoever wrote it."""
        source = self._get(piece.sequence.memory, len(piece.sequence.source))
        context = self._get(piece.sequence.blocks, piece.end)
        drawn = list[int]()
        for guess in (*piece.draft, None):
            drawn.append(self._model([*source, *context[: piece.end - len(piece.draft) + len(drawn)]]))
            if drawn[-1] != guess:
                break
        return Sampled(tuple(Scored(token, -1.0) for token in drawn))


def _scores(piece: Slice) -> tuple[Scored, ...]:
    """Of the prompt tokens after those scored so far: each takes the pass over the token before it."""
    sequence = piece.sequence
    if sequence.prompt_alternatives is None or sequence.scored >= sequence.prompt_length - 1:
        return ()
    assert piece.start <= sequence.scored, "what is scored must be computed, not found in the cache"
    last = min(piece.end, sequence.prompt_length - 1)
    return tuple(Scored(token, -1.0) for token in sequence.tokens[sequence.scored + 1 : last + 1])


def seconds(step: Step) -> float:
    """What the device takes for it."""
    return STEP_S + step.num_tokens * (ROW_S if isinstance(step, DecodeStep) else TOKEN_S)


def continuations(texts: Seq[list[int]], scores: Seq[float], sequence: Sequence) -> tuple[Continuation, ...]:
    """The best of every text's next tokens: what these score is drawn from text and token."""
    every = [
        Continuation(parent, Scored(token, -1.0), score - Random(repr((text, token))).randrange(256) / 16)
        for parent, (text, score) in enumerate(zip(texts, scores, strict=True))
        for token in range(BEAM_VOCABULARY)
    ]
    wanted = max(2, 1 + len(sequence.stop_tokens)) * sequence.greatest_width
    return tuple(sorted(every, key=lambda one: -one.score)[:wanted])


def best_of_beams(sequence: Sequence) -> list[int]:
    """What a beam search must end with, had it the device for itself: nothing is shared, nothing copied."""
    assert sequence.beams is not None
    prompt = sequence.tokens[: sequence.prompt_length]
    search = Search(
        sequence.beams,
        table=(),
        stop_tokens=sequence.stop_tokens,
        max_new_tokens=sequence.max_new_tokens,
    )
    search.advance(continuations([[*sequence.source, *prompt]], [0.0], sequence))
    while not search.best:
        texts = [[*sequence.source, *prompt, *branch.tokens] for branch in search.branches]
        search.advance(continuations(texts, [branch.score for branch in search.branches], sequence))
    return [*prompt, *(scored.token for scored in search.best)]


def text_of(sequence: Sequence, model: Model) -> list[int]:
    """What it must end with, had it the device for itself and no tricks were played."""
    if sequence.greatest_width > 1:
        return best_of_beams(sequence)
    tokens = sequence.tokens[: sequence.prompt_length]
    for _ in range(sequence.max_new_tokens):
        tokens.append(model([*sequence.source, *tokens]))
        if tokens[-1] in sequence.stop_tokens:
            break
    return tokens


def run_to_end(scheduler: Scheduler, device: Device, *, steps: int = 10_000) -> list[Sequence | Passage]:
    """Everything that ended, in the order in which it did."""
    ended = list[Sequence | Passage]()
    for _ in range(steps):
        step = scheduler.next_step()
        if step is None:
            return ended
        ended += scheduler.apply(step, device.run(step), seconds(step))
    raise AssertionError("the scheduler never came to rest")

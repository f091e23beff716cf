"""What a step gave its sequences: tokens that stand, branches that go on, prefixes that can be found."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq

from server.request import Beams
from server.scheduling.beams import Search
from server.scheduling.drafting import Drafting
from server.scheduling.fairness import OUTPUT_WEIGHT
from server.scheduling.plan import Continuation, Results, Sampled, Slice
from server.scheduling.roster import Roster
from server.scheduling.sequence import Sequence


class Recorder:
    """Moves the sequences of `roster` on; `drafting` learns what stood of its guesses, if there is any."""

    def __init__(self, roster: Roster, drafting: Drafting | None) -> None:
        self._roster = roster
        self._drafting = drafting

    def record(self, piece: Slice, results: Results) -> None:
        """`piece` ran: its sequence is that much further, and what waited for its prefix is in line again."""
        sequence, samples = piece.sequence, piece.samples
        sequence.appended = 0
        sequence.encoded = sequence.encoded or piece.encodes
        if sequence.search is None:
            says = samples and sequence.beams is None
            self._read(piece, results.sampled[sequence.id] if says else None)
        if samples and sequence.beams is not None:
            search = sequence.search or self._begin_search(sequence, sequence.beams)
            self._branch(piece, search, results.continued[sequence.id])

    def _read(self, piece: Slice, sampled: Sampled | None) -> None:
        """Of a prompt or a stream, and perhaps what was `sampled` behind it."""
        sequence = piece.sequence
        if sequence.prompt_alternatives is not None:
            sequence.scored = max(sequence.scored, min(piece.end, sequence.prompt_length - 1))
        if sampled is None:
            sequence.computed = piece.end
        else:
            self._append(piece, sampled)
        sequence.read = sequence.computed >= sequence.prompt_length or sequence.read
        self._roster.remember(sequence, since=piece.start)

    def _begin_search(self, sequence: Sequence, beams: Beams) -> Search:
        sequence.search = Search(
            beams,
            table=sequence.blocks,
            stop_tokens=sequence.stop_tokens,
            max_new_tokens=sequence.max_new_tokens,
        )
        return sequence.search

    def _branch(self, piece: Slice, search: Search, continuations: Seq[Continuation]) -> None:
        """Every branch goes on by a token; once the search is over, the best of all texts is said, whole."""
        sequence = piece.sequence
        search.advance(continuations)
        self._roster.holdings.prune(sequence, search)
        self._roster.shares.charge(sequence.tenant, OUTPUT_WEIGHT * piece.width)
        sequence.tokens += [scored.token for scored in search.best]
        sequence.appended = len(search.best)
        sequence.computed = sequence.length - 1

    def _append(self, piece: Slice, sampled: Sampled) -> None:
        """What was sampled stands up to the first stop token; the cache holds all of it but the last."""
        sequence = piece.sequence
        tokens = _until_stop((one.token for one in sampled.tokens), sequence.stop_tokens)
        sequence.tokens += tokens
        sequence.appended = len(tokens)
        sequence.computed = len(sequence.tokens) - 1
        sequence.surprise = sampled.surprise
        self._roster.shares.charge(sequence.tenant, OUTPUT_WEIGHT * len(tokens))
        if piece.draft and self._drafting:
            self._drafting.learn(sequence, drafted=len(piece.draft), accepted=len(sampled.tokens) - 1)


def _until_stop(tokens: Iterable[int], stop_tokens: frozenset[int]) -> list[int]:
    """`tokens` up to the first stop token, that one included."""
    kept = list[int]()
    for token in tokens:
        kept.append(token)
        if token in stop_tokens:
            break
    return kept

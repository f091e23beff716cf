"""Sources of an encoder-decoder: encoded whole with the seat, held beside the text, given back with it."""

from __future__ import annotations

from itertools import count, pairwise

import pytest

from server.scheduling.blocks import BlockPool
from server.scheduling.generation import GenerationLane
from server.scheduling.pace import DecoderPace
from server.scheduling.plan import DecodeStep
from server.scheduling.prefix import Prefix
from server.scheduling.roster import Roster
from server.scheduling.rotation import FairStep
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Sequence
from server.scheduling.step_plan import StepPlan
from tests.scheduling.device import Device, counter, run_to_end, seconds, text_of
from tests.scheduling.server import TARGET_S, warm

PROMPT = list(range(100, 110))  # two full blocks of four, and two tokens
SOURCE = tuple(range(200, 206))  # two blocks


def make(num_blocks: int = 20, *, max_batch_tokens: int = 64) -> tuple[Scheduler, GenerationLane, Device]:
    lane = GenerationLane(
        "t5", BlockPool(num_blocks, 4), max_batch_tokens=max_batch_tokens, max_sequences=4, sources=True
    )
    return Scheduler({"t5": lane}), lane, Device()


def sequence(
    id_: int,
    tokens: list[int] = PROMPT,
    source: tuple[int, ...] = SOURCE,
    *,
    new: int = 4,
    priority: int = 0,
    salt: bytes = b"",
) -> Sequence:
    return Sequence(
        id=id_, tokens=list(tokens), source=source, max_new_tokens=new, priority=priority, salt=salt
    )


def step(scheduler: Scheduler, device: Device) -> DecodeStep:
    planned = scheduler.next_step()
    assert isinstance(planned, DecodeStep)
    scheduler.apply(planned, device.run(planned), seconds(planned))
    return planned


def encoding(planned: DecodeStep) -> list[bool]:
    return [piece.encodes for piece in planned.slices]


def test_a_source_is_encoded_once_with_the_first_chunk_and_counts_as_tokens_of_its_step() -> None:
    scheduler, lane, device = make(max_batch_tokens=10)
    scheduler.generate("t5", one := sequence(1))
    steps = [step(scheduler, device) for _ in range(3)]
    assert [encoding(planned) for planned in steps] == [[True], [False], [False]]
    assert [planned.num_tokens for planned in steps] == [6 + 4, 6, 1]
    assert len(one.memory) == 2
    run_to_end(scheduler, device)
    assert one.tokens == text_of(one, counter)
    assert one.held == []
    assert lane.blocks.num_free == 20


def test_sources_of_one_step_are_encoded_together() -> None:
    scheduler, _, device = make()
    for id_ in (1, 2):
        scheduler.generate("t5", sequence(id_, source=(*SOURCE, id_)))
    assert encoding(step(scheduler, device)) == [True, True]


def test_a_source_longer_than_a_step_is_read_by_itself_and_never_cut() -> None:
    scheduler, _, device = make(max_batch_tokens=8)
    scheduler.generate("t5", sequence(1, [1], source=(5,)))
    scheduler.generate("t5", long := sequence(2, source=tuple(range(30))))
    assert step(scheduler, device).ids == [1]  # what is left of this step is too little
    planned = step(scheduler, device)
    assert planned.ids == [1, 2]  # but for the row of a stream
    assert [(piece.count, piece.encodes) for piece in planned.slices] == [(1, False), (1, True)]
    assert planned.num_tokens == 1 + 30 + 1
    run_to_end(scheduler, device)
    assert long.tokens == text_of(long, counter)


def test_a_preempted_sequence_gives_its_memory_back_and_encodes_again() -> None:
    scheduler, lane, device = make(num_blocks=8)
    scheduler.generate("t5", one := sequence(1))
    step(scheduler, device)
    scheduler.generate("t5", sequence(2, [*range(300, 318)], priority=1))
    assert step(scheduler, device).ids == [2]
    assert (lane.preemptions, one.held, one.encoded) == (1, [], False)
    run_to_end(scheduler, device)
    assert one.tokens == text_of(one, counter)


def test_another_seat_is_taken_only_where_the_source_fits_too() -> None:
    scheduler, lane, device = make(num_blocks=9)
    scheduler.generate("t5", sequence(1, new=2))  # holds three blocks, and two for its source
    scheduler.generate("t5", sequence(2, [9] * 10, new=2))
    assert step(scheduler, device).ids == [1]
    assert (lane.num_running, lane.blocks.num_free) == (1, 4)


def test_the_text_of_another_source_is_never_found() -> None:
    scheduler, _, device = make(num_blocks=40)
    scheduler.generate("t5", sequence(1))
    run_to_end(scheduler, device)
    others = [sequence(2, source=(*SOURCE[:-1], 7)), sequence(3, salt=b"mine"), sequence(4)]
    for one in others:
        scheduler.generate("t5", one)
    run_to_end(scheduler, device)
    assert [one.cached for one in others] == [0, 0, 8]
    assert [one.tokens for one in others] == [text_of(one, counter) for one in others]


def test_a_salt_cannot_pretend_to_be_a_source() -> None:
    """Salt and source are digested with the salt's length before them."""
    pool, chains = BlockPool(4, 4), list[list[Prefix]]()
    for salt, source in ((b"", (1, 2)), (b"\1" + 7 * b"\0", (2,)), (b"", (2,))):
        chains.append([])
        pool.name(chains[-1], PROMPT, salt, source=source, length=8)
    assert len({chain[-1].name for chain in chains}) == len({chain[0].salt for chain in chains}) == 3


@pytest.mark.parametrize(
    ("lane", "source", "reason"),
    [("t5", (), "t5: an encoder-decoder needs a source"), ("gpt", SOURCE, "gpt: a decoder takes no source")],
)
def test_only_an_encoder_decoder_has_sources(lane: str, source: tuple[int, ...], reason: str) -> None:
    one = GenerationLane(lane, BlockPool(9, 4), max_batch_tokens=8, max_sequences=1, sources=lane == "t5")
    with pytest.raises(ValueError, match=reason):
        one.add(sequence(1, source=source))


def test_what_could_never_fit_with_its_source_is_refused() -> None:
    scheduler, _, device = make(num_blocks=6)
    scheduler.generate("t5", sequence(1, new=6))  # four blocks, and two
    with pytest.raises(ValueError, match="17 tokens and a source of 6 can never fit into 24 of KV cache"):
        scheduler.generate("t5", sequence(2, new=7))
    run_to_end(scheduler, device)


class Strict(FairStep):
    """Leaves nothing to those who were served more than others."""

    def max_prompt_tokens(self, rows: int) -> int:
        return 0


def test_who_is_charged_for_a_source_reads_it_though_that_leaves_its_tenant_nothing() -> None:
    roster = Roster(BlockPool(20, 4), max_sequences=4)
    roster.join(stream := Sequence(id=1, tokens=[1], source=(1,), max_new_tokens=9, tenant="ann"))
    roster.admit(stream)
    roster.join(Sequence(id=2, tokens=[1, 2], source=SOURCE, max_new_tokens=1, tenant="bob"))
    plan = StepPlan(roster, max_tokens=64)
    plan.add_rows([stream], limit=1, servings=count())
    plan.add_prompts(Strict([stream], {}, 2, DecoderPace()), None)
    assert [(piece.sequence.id, piece.count) for piece in plan.slices] == [(1, 1), (2, 1)]
    assert plan.slices[1].encodes


def test_a_tenant_is_charged_for_its_sources_once() -> None:
    """So the one with the long source waits for the other, though it came first."""
    scheduler, _, device = make(num_blocks=60, max_batch_tokens=8)
    sources = {"ann": tuple(range(40)), "bob": (1,)}
    for id_, tenant in enumerate(["ann", "ann", "bob", "bob", "bob"]):
        one = Sequence(id=id_, tokens=[id_], source=sources[tenant], max_new_tokens=1, tenant=tenant)
        scheduler.generate("t5", one)
    ended = [item.id for item in run_to_end(scheduler, device)]
    assert ended[0] == 0
    assert ended[-1] == 1


def test_a_source_is_paid_back_to_the_streams_of_other_models() -> None:
    server = warm()
    stream = server.stream()
    server.step()
    for _ in range(4):
        server.stream("t5", source=250, new=1)  # each takes 0.26 s: five targets
    gaps = server.gaps(stream, 40)
    late = [number for number, gap in enumerate(gaps) if gap > 2 * TARGET_S]
    assert len(late) == 4
    assert min(after - before for before, after in pairwise(late)) >= 4

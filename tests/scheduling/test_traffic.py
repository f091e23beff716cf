"""Whatever comes, in whatever order: laws that hold for several models on one crowded device.

Tenants, priorities, salts and deadlines; shared prefixes, drafts that stand and drafts that do not; sources,
some longer than a step; beams; aborts before, between and during steps, and steps that fail; memory for
hardly more than one text.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server.request import Beams, EarlyStopping, EmbedWork, FinishReason
from server.scheduling.blocks import BlockPool
from server.scheduling.encoding import EncodingLane
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import DecodeStep, Step
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Passage, Sequence
from tests.scheduling.device import Device, parrot, seconds, text_of

LONGEST_PROMPT, LONGEST_ANSWER, LONGEST_PASSAGE, LONGEST_SOURCE = 20, 12, 40, 30
WIDEST = 4  # of beams
MAX_BATCH_TOKENS, MAX_SEQUENCES, MAX_PASSAGES = 24, 3, 4
PATIENCE = 150  # steps of a lane in which a tenant may get nothing: far less than a queue of others takes

prompts = st.builds(
    lambda head, shared, tail: (head * 10)[:shared] + tail,
    st.sampled_from([[1, 2, 3], [1, 2, 4], [5, 5, 5]]),
    st.integers(0, 16),
    st.lists(st.integers(0, 9), min_size=1, max_size=4),
)
tenants = st.sampled_from(["ann", "bob", "cyd"])
sources = st.one_of(
    st.sampled_from([(7, 8, 9), (7, 8, 8)]),
    st.lists(st.integers(0, 9), min_size=1, max_size=LONGEST_SOURCE).map(tuple),
)
beams = st.sampled_from(
    [
        None,
        None,
        Beams(width=2, early_stopping=EarlyStopping.AT_ONCE),
        Beams(width=3, length_penalty=2.0),
        Beams(width=WIDEST, length_penalty=0.5, early_stopping=EarlyStopping.NEVER),
    ]
)
priorities = st.sampled_from([0, 0, 0, 1])
timeouts = st.sampled_from([float("inf"), float("inf"), 0.3, 2.0])


class Traffic(RuleBasedStateMachine):
    """One scheduler over two decoders, an encoder-decoder and an encoder, driven by whatever Hypothesis
    thinks of."""

    @initialize(block_size=st.integers(1, 5), spare=st.integers(0, 4), target_s=st.sampled_from([0.02, 0.1]))
    def start(self, block_size: int, spare: int, target_s: float) -> None:
        text = -(-(LONGEST_PROMPT + LONGEST_ANSWER) // block_size)
        branched = max(
            shared + WIDEST * (-(-(prompt + LONGEST_ANSWER) // block_size) - shared)
            for prompt in range(LONGEST_PROMPT + 1)
            for shared in [prompt // block_size]
        )
        memory = -(-LONGEST_SOURCE // block_size)
        self.decoders = {
            name: GenerationLane(
                name,
                BlockPool(num_blocks + spare, block_size, name_bytes=1),  # short enough to collide
                max_batch_tokens=MAX_BATCH_TOKENS,
                max_sequences=MAX_SEQUENCES,
                sources=name == "t5",
            )
            for name, num_blocks in {"gpt": text, "llama": branched, "t5": branched + memory}.items()
        }
        bert = EncodingLane("bert", max_batch_tokens=MAX_BATCH_TOKENS, max_passages=MAX_PASSAGES)
        self.scheduler = Scheduler({**self.decoders, "bert": bert}, itl_target_s=target_s)
        self.devices = {name: Device(parrot, block_size) for name in (*self.decoders, "bert")}
        self.live = dict[int, tuple[str, Sequence | Passage]]()
        self.scored = Counter[int]()
        self.unserved = defaultdict[tuple[str, str], int](int)
        self.now = 0.0
        self.next_id = 0

    @rule(
        model=st.sampled_from(["gpt", "llama", "t5"]),
        prompt=prompts,
        source=sources,
        beams=beams,
        new=st.integers(0, LONGEST_ANSWER),
        stops=st.sets(st.integers(0, 12), max_size=1),
        tenant=tenants,
        priority=priorities,
        salt=st.sampled_from([b"", b"salt"]),
        timeout=timeouts,
        scores=st.sampled_from([False, False, True]),
        samples=st.sampled_from([1, 1, 3]),
    )
    def generate(
        self,
        model: str,
        prompt: list[int],
        source: tuple[int, ...],
        beams: Beams | None,
        new: int,
        stops: set[int],
        tenant: str,
        priority: int,
        salt: bytes,
        timeout: float,
        scores: bool,
        samples: int,
    ) -> None:
        for _ in range(samples):
            sequence = Sequence(
                id=self.next_id,
                tokens=list(prompt),
                source=source if model == "t5" else (),
                beams=None if model == "gpt" else beams,
                max_new_tokens=new,
                stop_tokens=frozenset(stops),
                tenant=tenant,
                priority=priority,
                salt=salt,
                deadline=self.now + timeout,
                prompt_alternatives=0 if scores else None,
            )
            self.scheduler.generate(model, sequence)
            self._joined(model, sequence)

    @rule(
        length=st.integers(1, LONGEST_PASSAGE),
        tenant=tenants,
        priority=priorities,
        timeout=timeouts,
        copies=st.sampled_from([1, 4]),
    )
    def encode(self, length: int, tenant: str, priority: int, timeout: float, copies: int) -> None:
        for _ in range(copies):
            passage = Passage(
                id=self.next_id,
                tokens=(1,) * length,
                work=EmbedWork(),
                tenant=tenant,
                priority=priority,
                deadline=self.now + timeout,
            )
            self.scheduler.encode("bert", passage)
            self._joined("bert", passage)

    @rule(pick=st.integers(0, 99))
    def abort(self, pick: int) -> None:
        if self.live:
            self._abort(list(self.live)[pick % len(self.live)])

    @rule(passed=st.sampled_from([0.1, 1.0]))
    def let_time_pass(self, passed: float) -> None:
        self.now += passed
        self._expire()

    @rule(count=st.integers(1, 8))
    def step(self, count: int) -> None:
        for _ in range(count):
            self._step()

    @rule(pick=st.integers(0, 99))
    def step_while_one_is_aborted(self, pick: int) -> None:
        self._step(abort=pick)

    @rule()
    def step_that_fails(self) -> None:
        step = self.scheduler.next_step()
        for id_ in () if step is None else step.ids:
            self._abort(id_)

    @invariant()
    def blocks_add_up(self) -> None:
        for model, lane in getattr(self, "decoders", {}).items():
            holders = Counter(block for one in self._sequences(model) for block in one.held)
            pool = lane.blocks
            assert all(pool.holders(block) == holders[block] for block in range(pool.num_blocks))
            assert pool.num_free == pool.num_blocks - len(holders)
            assert 0 <= pool.num_idle <= pool.num_free

    @invariant()
    def branches_share_what_they_do_not_write(self) -> None:
        """All of their blocks are held, and none that nobody needs; what is written next is nobody else's."""
        for model in getattr(self, "decoders", ()):
            for one in self._sequences(model):
                if one.search is None:
                    continue
                tables = [branch.table for branch in one.search.branches]
                assert set(one.blocks) == {block for table in tables for block in table}
                assert all(table[: len(one.chain)] == tables[0][: len(one.chain)] for table in tables)

    def teardown(self) -> None:
        """Nothing more comes: all that is left ends, and every block comes back."""
        if not hasattr(self, "live"):
            return
        for _ in range(200 * (1 + len(self.live))):
            if not self._step():
                break
        assert not self.live
        assert self.scheduler.next_step() is None
        for lane in self.decoders.values():
            assert (lane.num_running, lane.num_waiting) == (0, 0)
            assert lane.blocks.num_free == lane.blocks.num_blocks

    def _joined(self, model: str, item: Sequence | Passage) -> None:
        self.live[item.id] = model, item
        self.next_id += 1

    def _step(self, abort: int | None = None) -> bool:
        """One step, if there is one; it must be given while anything is alive."""
        step = self.scheduler.next_step()
        assert (step is not None) == bool(self.live)
        if step is None:
            return False
        self._check(step)
        results = self.devices[step.model].run(step)
        if abort is not None:
            self._abort(list(self.live)[abort % len(self.live)])
        before = {id_: one.generated for id_, (_, one) in self.live.items() if isinstance(one, Sequence)}
        finished = self.scheduler.apply(step, results, seconds(step))
        if isinstance(step, DecodeStep):
            for one in [piece.sequence for piece in step.slices if piece.sequence.id in before]:
                assert one.appended == one.generated - before[one.id]
                self.scored[one.id] += len(results.prompt[one.id])
        for item in finished:
            self._finished(item)
        self.now += seconds(step)
        self._expire()
        return True

    def _check(self, step: Step) -> None:
        assert len(set(step.ids)) == len(step.ids)
        assert all(self.live[id_][0] == step.model for id_ in step.ids)
        if isinstance(step, DecodeStep):
            self._check_budget(step)
            assert self.decoders[step.model].num_running <= MAX_SEQUENCES
            for piece in step.slices:
                assert piece.start == piece.sequence.computed
                assert [len(run.tokens) for run in piece.runs] == [piece.count] * piece.width
                assert piece.sequence.generated + len(piece.draft) < max(piece.sequence.max_new_tokens, 1)
        else:
            assert len(step.passages) == 1 or step.num_tokens <= MAX_BATCH_TOKENS
            assert len(step.passages) <= MAX_PASSAGES
        self._check_that_nobody_starves(step)

    def _check_budget(self, step: DecodeStep) -> None:
        """A source is never cut: one too long for the step is read by itself, beside the rows of streams."""
        assert step.num_tokens > 0
        if step.num_tokens > MAX_BATCH_TOKENS:
            (begun,) = (piece for piece in step.slices if not piece.streams)
            assert begun.encodes
            assert begun.count == 1

    def _check_that_nobody_starves(self, step: Step) -> None:
        """Among those of the highest priority, that is: it comes before fairness."""
        items = [item for model, item in self.live.values() if model == step.model]
        highest = max(item.priority for item in items)
        served = {self.live[id_][1].tenant for id_ in step.ids}
        wanting = {item.tenant for item in items if item.priority == highest} - served
        for tenant in ("ann", "bob", "cyd"):
            key = (step.model, tenant)
            self.unserved[key] = self.unserved[key] + 1 if tenant in wanting else 0
            assert self.unserved[key] < PATIENCE

    def _finished(self, item: Sequence | Passage) -> None:
        del self.live[item.id]
        if isinstance(item, Sequence):
            assert item.finish_reason in (FinishReason.EOS, FinishReason.LENGTH)
            assert item.tokens == text_of(item, parrot)
            expected = item.prompt_length - 1 if item.prompt_alternatives is not None else 0
            assert self.scored[item.id] == expected

    def _expire(self) -> None:
        due = {id_ for id_, (_, item) in self.live.items() if item.deadline <= self.now}
        for item in self.scheduler.expire(self.now):
            due.remove(item.id)
            self._left(item.id)
            assert not isinstance(item, Sequence) or item.finish_reason is FinishReason.TIMEOUT
        assert not due

    def _abort(self, id_: int) -> None:
        self.scheduler.abort(id_)
        self._left(id_)

    def _left(self, id_: int) -> None:
        """Before its end: what it has is the beginning of its text."""
        _, item = self.live.pop(id_)
        if isinstance(item, Sequence):
            assert item.held == []
            assert item.tokens == text_of(item, parrot)[: len(item.tokens)]

    def _sequences(self, model: str) -> list[Sequence]:
        return [item for name, item in self.live.values() if name == model and isinstance(item, Sequence)]


TestTraffic = Traffic.TestCase

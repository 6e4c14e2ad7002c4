"""Stores driven at random, next to the rules of docs/sessions.md as one reads them: what a store says, and what it has.

`ghost` is an owner that never beats: it counts as dead.
"""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from gatestream.server.durability.checkpoints import TERM, Checkpoint, Claim, Key, Owned, Stored
from gatestream.server.errors import AlreadyExists, EpochStale, NotFound, NotReplayable
from tests.server.durability.stores import MEANING, OPEN, at, key, opened, writes

KEYS = [key("1"), key("2"), Key("u", "m", "1")]
LIVING = {"a", "b"}
owners = st.sampled_from(["a", "b", "ghost"])
keys = st.sampled_from(KEYS)
sequences = st.integers(0, 9)
epochs = st.integers(1, 12)
seeds = st.integers(0, 2)


@dataclass
class Session:
    """What a store has to know."""

    epoch: int
    owner: str
    wanted: bool = False
    checkpoints: dict[int, Checkpoint] = field(default_factory=dict)


class Rules(RuleBasedStateMachine):
    kind = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.stack = AsyncExitStack()
        self.store: Any = self.loop.run(self.stack.enter_async_context(opened(self.kind, Path(self.folder.name))))
        self.known: dict[Key, Session] = {}

    def teardown(self) -> None:
        self.loop.run(self.stack.aclose())
        self.loop.close()
        self.folder.cleanup()

    def live(self, which: Key) -> Session | None:
        session = self.known.get(which)
        return session if session and session.checkpoints else None

    def owned(self, which: Key, owner: str, epoch: int) -> Session | None:
        session = self.live(which)
        return session if session and session.owner == owner and session.epoch == epoch else None

    @rule(
        which=keys,
        owner=owners,
        raised=st.integers(-1, 2),
        first=st.booleans(),
        taken_up=st.booleans(),
        acknowledged=st.none() | sequences,
        resident=st.none() | st.tuples(st.integers(-1, 0), sequences, seeds),
    )
    def claim(
        self,
        which: Key,
        owner: str,
        raised: int,
        first: bool,
        taken_up: bool,
        acknowledged: int | None,
        resident: tuple[int, int, int] | None,
    ) -> None:
        session, old = self.live(which), self.known.get(which)
        stands = old.epoch if old else 0
        # One below, the same, one more unsaid, one more said.
        epoch = (max(stands - 1, 1), max(stands, 1), 0, stands + 1)[raised + 1]
        slot = resident and (stands + resident[0], at(resident[1], resident[2]))
        ask = Claim(owner, epoch, MEANING, at(0) if first else None, taken_up, acknowledged, slot)
        try:
            got: Any = self.loop.run(self.store.claim(which, ask))
        except (NotFound, AlreadyExists, EpochStale, NotReplayable, Owned) as error:
            got = type(error)
        raised_to = epoch or stands + 1
        if session is None:
            if not first:
                assert got is NotFound
            elif raised_to <= stands:
                assert got is EpochStale
            else:
                assert (got.epoch, got.created, got.checkpoint) == (raised_to, True, None)
                self.known[which] = Session(raised_to, owner, False, {0: at(0)})
            return
        if first and not taken_up:
            assert got is AlreadyExists
            return
        if raised_to <= stands:
            assert got is EpochStale
            return
        if session.owner in LIVING and session.owner != owner:
            assert got is Owned
            session.wanted = True
            return
        has = session.checkpoints
        own = slot[1] if slot and slot[0] == stands else None
        if acknowledged is not None:
            reachable = [sequence for sequence in has if sequence <= acknowledged]
            if not reachable:
                assert got is NotReplayable
                return
            kept = own is not None and own.sequence == acknowledged
            assert got.durable == max(reachable)
            assert got.checkpoint == (None if kept else has[max(reachable)])
        else:
            kept = own is not None and own.sequence >= max(has)
            only = own if own is not None and kept else has[max(has)]
            only = only._replace(sequence=only.sequence + TERM)
            assert got.checkpoint == only
            session.checkpoints = {only.sequence: only}
            assert got.durable == only.sequence
        assert (got.epoch, got.created, got.tip) == (raised_to, False, max(session.checkpoints))
        session.epoch, session.owner, session.wanted = raised_to, owner, False

    @rule(
        owner=owners,
        rows=st.lists(st.tuples(keys, st.integers(-1, 1), sequences, seeds, sequences), min_size=1, max_size=3),
    )
    def write(self, owner: str, rows: list[tuple[Key, int, int, int, int]]) -> None:
        rows = list({row[0]: row for row in rows}.values())
        asked = [
            (which, max(0, (self.known[which].epoch if which in self.known else 1) + off), at(sequence, seed), ack)
            for which, off, sequence, seed, ack in rows
        ]
        done = self.loop.run(self.store.write(writes(owner, asked)))
        for k, (which, epoch, new, ack) in enumerate(asked):
            session = self.owned(which, owner, epoch)
            assert bool(done.taken[k]) == (session is not None)
            if session is None:
                continue
            has = session.checkpoints | {new.sequence: new}
            below = [sequence for sequence in has if sequence <= min(ack, new.sequence)]
            anchor = max(below) if below else min(has)
            session.checkpoints = {sequence: has[sequence] for sequence in {anchor, max(has)}}
            assert (int(done.durable[k]), bool(done.wanted[k])) == (anchor, session.wanted)

    @rule(which=keys, owner=owners, off=st.integers(-1, 1), sequence=sequences, seed=seeds)
    def replace(self, which: Key, owner: str, off: int, sequence: int, seed: int) -> None:
        epoch = (self.known[which].epoch if which in self.known else 1) + off
        session = self.owned(which, owner, epoch)
        assert self.loop.run(self.store.replace(which, owner, epoch, at(sequence, seed))) == (session is not None)
        if session is not None:
            session.checkpoints = {sequence: at(sequence, seed)}

    @rule(owner=owners, asked=st.lists(st.tuples(keys, epochs), max_size=3, unique_by=lambda row: row[0]))
    def release(self, owner: str, asked: list[tuple[Key, int]]) -> None:
        self.loop.run(self.store.release(owner, [k for k, _ in asked], np.array([e for _, e in asked], np.int64)))
        for which, epoch in asked:
            session = self.owned(which, owner, epoch)
            if session is not None:
                session.owner, session.wanted = "", False

    @rule(which=keys, off=st.integers(-1, 1))
    def close(self, which: Key, off: int) -> None:
        session = self.live(which)
        epoch = (session.epoch if session else 1) + off
        closed = self.loop.run(self.store.close([which], np.array([epoch], np.int64)))
        assert bool(closed[0]) == (session is not None and off == 0)
        if session is not None and off == 0:
            self.known[which] = Session(session.epoch, "")

    @rule(which=keys)
    def delete(self, which: Key) -> None:
        session = self.live(which)
        assert self.loop.run(self.store.delete([which])) == (session is not None)
        if session is not None:
            self.known[which] = Session(session.epoch, "")

    @rule(which=keys, epoch=epochs, sequence=sequences)
    def put(self, which: Key, epoch: int, sequence: int) -> None:
        old = self.known.get(which)
        try:
            self.loop.run(self.store.put(Stored(which, epoch, "", MEANING, (at(sequence),))))
        except AlreadyExists:
            assert self.live(which)
        else:
            assert not self.live(which)
            raised = max(epoch, old.epoch if old else 0) + 1
            self.known[which] = Session(raised, "", False, {sequence: at(sequence)})

    @rule()
    def prune(self) -> None:
        gone = [which for which, session in self.known.items() if session.owner not in LIVING]
        assert self.loop.run(self.store.prune(2.0**40)) == sum(self.live(which) is not None for which in gone)
        for which in gone:
            del self.known[which]

    @invariant()
    def says_what_it_has(self) -> None:
        for which in KEYS:
            session = self.live(which)
            if session is None:
                with pytest.raises(NotFound):
                    self.loop.run(self.store.read(which))
                continue
            found = self.loop.run(self.store.read(which))
            assert (found.epoch, found.owner) == (session.epoch, session.owner)
            assert list(found.checkpoints) == [session.checkpoints[k] for k in sorted(session.checkpoints)]
        for owner in LIVING:
            wanted = {k for k, session in self.known.items() if session.owner == owner and session.wanted}
            assert set(self.loop.run(self.store.beat(owner))) == wanted
        for tenant in ("t", "u"):
            count = sum(k.tenant == tenant and bool(session.checkpoints) for k, session in self.known.items())
            assert self.loop.run(self.store.usage(tenant)) == (count, 32 * count)


@pytest.mark.parametrize("kind", list(OPEN))
def test_a_store_keeps_the_rules(kind: str) -> None:
    machine = type("RulesOf" + kind, (Rules,), {"kind": kind})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60 if kind == "memory" else 25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

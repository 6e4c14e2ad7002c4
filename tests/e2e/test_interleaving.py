"""Whatever clients do, and in whatever order it comes, each session gives exactly what it gives alone."""

from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.e2e.oracles import Accumulator, LstmWithGates, Oracle
from tests.e2e.speaker import Session, Speaker
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, stub, until

SPEAKERS = st.integers(0, 2)
SEEDS = st.integers(0, 2**32 - 1)
# Few rows and steps in one run: a message is cut, and its parts run beside those of others.
TICKS = {"tick_rows": 5, "tick_steps": 6}


class Interleaving(RuleBasedStateMachine):
    """Three clients that send without waiting; a rule that does not say `settle` leaves its answers outstanding."""

    def __init__(self, server: ServerProcess, oracle: Oracle):
        super().__init__()
        self.server, self.oracle = server, oracle
        self.speakers = [Speaker(server.address, oracle) for _ in range(3)]
        self.ended: list[str] = []
        self.made = 0

    def pick(self, data: st.DataObject, speaker: Speaker, most: int = 6) -> list[int]:
        """Some of a client's sessions, by handle; none where it has none."""
        if not speaker.sessions:
            return []
        handles = st.sampled_from(sorted(speaker.sessions))
        return data.draw(st.lists(handles, unique=True, min_size=1, max_size=most))

    @initialize()
    def begin(self) -> None:
        for k in range(9):
            self.open(k % 3, again=False, create=True, outputs=k != 4, gates=k % 2 == 0)

    @rule(k=SPEAKERS, again=st.booleans(), create=st.booleans(), outputs=st.booleans(), gates=st.booleans())
    def open(self, k: int, again: bool, create: bool, outputs: bool, gates: bool) -> None:
        """A new session; its id may be that of one that has ended."""
        self.made += 1
        session_id = self.ended.pop(0) if again and self.ended else f"{id(self)}-{self.made}"
        session = Session(session_id, self.oracle.initial(), outputs=outputs, gates=gates and self.oracle.hidden > 0)
        self.speakers[k].open(session, pb.OPEN_MODE_CREATE if create else pb.OPEN_MODE_EITHER, created=True)

    @rule(
        k=SPEAKERS,
        data=st.data(),
        seed=SEEDS,
        messages=st.integers(1, 6),
        lengths=st.lists(st.one_of(st.just(1), st.integers(1, 30)), min_size=6, max_size=6),
        positions=st.booleans(),
        fault=st.sampled_from([None, None, None, "position", "nan"]),
        reset=st.booleans(),
    )
    def step(
        self,
        k: int,
        data: st.DataObject,
        seed: int,
        messages: int,
        lengths: list[int],
        positions: bool,
        fault: str | None,
        reset: bool,
    ) -> None:
        """Messages of one or more chunks, of which one may be wrong, and perhaps a reset behind the first."""
        speaker = self.speakers[k]
        rng = np.random.default_rng(seed)
        for message in range(messages):
            if not (handles := self.pick(data, speaker)):
                return
            chunks = {handle: self.oracle.inputs(rng, length) for handle, length in zip(handles, lengths, strict=False)}
            speaker.steps(
                chunks,
                positions=positions or fault == "position",
                lengths=any(len(chunk) > 1 for chunk in chunks.values()),
                faults={handles[seed % len(handles)]: fault} if fault else {},
            )
            if reset and message == 0:
                speaker.reset(handles[:2])

    @rule(k=SPEAKERS, data=st.data())
    def close(self, k: int, data: st.DataObject) -> None:
        handles = self.pick(data, self.speakers[k], most=2)
        self.speakers[k].close(handles)

    @rule(k=SPEAKERS, to=SPEAKERS, data=st.data(), resume=st.booleans(), outputs=st.booleans(), gates=st.booleans())
    def take_over(self, k: int, to: int, data: st.DataObject, resume: bool, outputs: bool, gates: bool) -> None:
        """A session comes to another stream, or to another handle of the same."""
        owner, heir = self.speakers[k], self.speakers[to]
        for handle in self.pick(data, owner, most=1):
            # What is sent on two streams comes in any order: first all that the owner sent, then the heir's Open, and
            # only then what the owner sends next.
            if owner is not heir:
                owner.settle()
            session = owner.expect_closed(handle, pb.CLOSE_REASON_TAKEN_OVER)
            session.outputs, session.gates = outputs, gates and self.oracle.hidden > 0
            heir.open(session, pb.OPEN_MODE_RESUME if resume else pb.OPEN_MODE_EITHER, created=False)
            if owner is not heir:
                heir.settle_opens()

    @rule(k=SPEAKERS)
    def settle(self, k: int) -> None:
        self.speakers[k].settle()

    @rule(k=SPEAKERS, vanish=st.booleans())
    def leave(self, k: int, vanish: bool) -> None:
        """A client says that it ends, or vanishes, and comes again; its sessions end, and nobody else's."""
        speaker = self.speakers[k]
        gone = {session.id for session in speaker.sessions.values()}
        if vanish:
            speaker.disconnect()
            until(lambda: not gone & self.listed(), "the sessions had ended")
        else:
            speaker.half_close()
        self.ended += sorted(gone)
        self.speakers[k] = Speaker(self.server.address, self.oracle)

    def listed(self) -> set[str]:
        with stub(self.server.address) as calls:
            page = calls.ListSessions(pb.ListSessionsRequest(page_size=1000), timeout=PATIENCE)
        assert not page.next_page_token
        return {item.session_id for item in page.sessions}

    def teardown(self) -> None:
        for speaker in self.speakers:
            speaker.half_close()
        until(lambda: not self.listed(), "no session was left")


# The server makes short runs on its event loop, and the large model's on another thread.
@pytest.fixture(
    scope="module",
    params=[Accumulator(), LstmWithGates(), LstmWithGates(hidden=300)],
    ids=["accumulator", "lstm", "large lstm"],
)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    oracle: Oracle = request.param
    with serving(oracle.save(tmp_path_factory.mktemp("model") / "model.onnx"), **TICKS) as server:
        yield server, oracle


@pytest.mark.timeout(600)  # It takes seconds, but when it fails, the search for the shortest example takes longer.
def test_each_session_gives_what_it_gives_alone(served: tuple[ServerProcess, Oracle]) -> None:
    class Served(Interleaving):
        def __init__(self) -> None:
            super().__init__(*served)

    run_state_machine_as_test(
        Served,
        settings=settings(max_examples=15, stateful_step_count=40, suppress_health_check=list(HealthCheck)),
    )

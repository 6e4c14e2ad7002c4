"""In whatever order all happens, no step is lost, repeated, misplaced or left without an answer."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gatestream.client.errors import DeadlineExceededError
from gatestream.client.protocol import batcher
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Chunk, Control, Kind
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.client.simulated import Pair


class Sessions(RuleBasedStateMachine):
    """Clients and server do what they may, in any order; the server objects to any wrong step by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.pair = Pair()
        self.session_queues: list[SessionQueue] = []
        self.works: list[tuple[SessionQueue, Chunk, set[int]]] = []
        self.controls: list[Control] = []
        self.asked = 0

    @initialize(sizes=st.lists(st.integers(1, 3), min_size=2, max_size=4), few_are_many=st.booleans())
    def begin(self, sizes: list[int], few_are_many: bool) -> None:
        if few_are_many:
            self.patch.setattr(batcher, "MANY", 2)
            self.pair.server.most_unheard = 2
        self.session_queues = [self.pair.open(size) for size in sizes]
        self.all_sessions = dict(self.pair.server.sessions)
        self.names = {
            name: k
            for k, name in enumerate(name for session_queue in self.session_queues for name in session_queue.ids)
        }

    @rule(data=st.data(), length=st.integers(1, 12), ragged=st.booleans())
    def ask(self, data: st.DataObject, length: int, ragged: bool) -> None:
        session_queue = data.draw(st.sampled_from(self.session_queues))
        members = sorted(data.draw(st.sets(st.sampled_from(session_queue.members.tolist()), min_size=1)))
        xs = [[self.asked + k * length + t for t in range(length)] for k in range(len(members))]
        self.asked += length * len(members)
        lengths = [data.draw(st.integers(1, length)) for _ in members] if ragged else None
        self.works.append((session_queue, self.pair.step(session_queue, xs, members, lengths), set(members)))

    @precondition(lambda self: self.pair.server.unheard)
    @rule(data=st.data())
    def answer_whole(self, data: st.DataObject) -> None:
        server = self.pair.server
        self.pair.tell(server.answer_message(data.draw(st.sampled_from(list(server.unheard)))))

    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        self.controls.append(self.pair.control(data.draw(st.sampled_from(self.session_queues)), Kind.RESET))

    @precondition(lambda self: self.pair.server.pending())
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        server = self.pair.server
        chosen = data.draw(st.lists(st.sampled_from(server.pending()), min_size=1, unique=True))
        parts = {}
        for handle in chosen:
            entry = server.sessions[handle].entry
            assert entry is not None
            parts[handle] = data.draw(st.integers(1, len(entry.xs)))
        self.pair.tell(server.answer(parts))

    @precondition(lambda self: self.pair.server.pending())
    @rule(data=st.data(), reason=st.sampled_from([pb.REASON_STEP_FAILED, pb.REASON_ROWS_EXHAUSTED]))
    def refuse(self, data: st.DataObject, reason: Any) -> None:
        self.pair.tell(self.pair.server.refuse(data.draw(st.sampled_from(self.pair.server.pending())), reason))

    @precondition(lambda self: self.pair.server.controlled())
    @rule(data=st.data())
    def obey(self, data: st.DataObject) -> None:
        self.pair.tell(self.pair.server.obey(data.draw(st.sampled_from(self.pair.server.controlled()))))

    @precondition(lambda self: any(not work.done for _, work, _ in self.works))
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        session_queue, work, _ = data.draw(st.sampled_from([each for each in self.works if not each[1].done]))
        self.pair.multiplexer.withdraw(session_queue, work, DeadlineExceededError("late"))
        self.pair.flush()

    @rule()
    def try_again(self) -> None:
        for session_queue in self.session_queues:
            if any(work.refusal for each, work, _ in self.works if each is session_queue and not work.done):
                self.pair.multiplexer.again(session_queue)
        self.pair.flush()

    @invariant()
    def positions_are_what_was_answered(self) -> None:
        for session_queue in self.session_queues:
            for handle, position in zip(session_queue.handles.tolist(), session_queue.positions.tolist(), strict=True):
                assert self.all_sessions[handle].position == position

    def teardown(self) -> None:
        self.patch.undo()
        for _ in range(100):
            self.pair.settle()
            for session_queue in self.session_queues:
                self.pair.multiplexer.again(session_queue)
            self.pair.flush()
            if not self.pair.server.pending() and not self.pair.server.controlled():
                break
        assert all(control.done and control.error is None for control in self.controls)
        for session_queue, work, members in self.works:
            assert work.done
            time = work.columns[0].shape[1]
            asked = [time] * len(members) if work.lengths is None else work.lengths.tolist()
            if work.error is not None and work.taken is None:
                continue
            taken = asked if work.taken is None else work.taken.tolist()
            assert (taken == asked) == (work.error is None)
            if not work.parts:
                assert not any(taken)
                continue
            results = work.results()[0]
            for row, member in enumerate(sorted(members)):
                session = self.all_sessions[int(session_queue.handles[member])]
                expected = [session.answers[int(work.first[row]) + t] for t in range(taken[row])]
                assert results[row].tolist() == expected + [0] * (results.shape[1] - taken[row])


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=80, stateful_step_count=40)

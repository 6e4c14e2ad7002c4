"""Whatever dies, in whatever order: each result once, in order, and the one that an undisturbed run gives."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gatestream.client.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    DrainingError,
    SessionClosedError,
    SessionExistsError,
)
from gatestream.client.models import OpenMode, opens
from gatestream.client.protocol import batcher
from gatestream.client.protocol.log import Budget
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Chunk, Control, Kind
from gatestream.client.protocol.stream import Multiplexer
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.client.reference_server import Checkpoint, Connection, Server, Stored, after
from tests.client.simulated import LIMITS, SPEC, layout

KEPT = pb.Limits()
KEPT.CopyFrom(LIMITS)
KEPT.durability = pb.DURABILITY_BEHIND
KEPT.message_bytes = 900


class Network:
    """A client, two servers with one store, and what is between them."""

    def __init__(self, replay_bytes: int = 1 << 20) -> None:
        self.store: dict[str, Stored] = {}
        self.servers = [Server(self.store, KEPT), Server(self.store, KEPT)]
        self.servers[0].peers, self.servers[1].peers = [self.servers[1]], [self.servers[0]]
        self.budget = Budget(replay_bytes)
        self.multiplexer = Multiplexer(KEPT, retry=True, budget=self.budget)
        self.layout = layout()
        self.connection: Connection | None = Connection(self.servers[0])
        self.late: list[Connection] = []
        self.opened: list[str] = []

    def flush(self) -> None:
        messages = self.multiplexer.take()
        assert not (self.multiplexer.usual and self.multiplexer.over)
        if self.connection is not None:
            self.connection.sent.extend(pb.ClientMessage.FromString(each) for each in messages)
            if self.multiplexer.over:
                self.cut()
        else:
            assert not messages

    def open(self, members: int) -> tuple[SessionQueue, Control]:
        # Names that are the same in every run: what is drawn goes by their order.
        names = [f"session-{len(self.opened) + k}" for k in range(members)]
        self.opened += names
        return self.opening(names, "either")

    def opening(self, names: list[str], mode: OpenMode) -> tuple[SessionQueue, Control]:
        requests = opens(SPEC, names, mode, outputs=True, gates=False)
        session_queue, work = self.multiplexer.open(self.layout, requests)
        self.add(session_queue, work)
        return session_queue, work

    def add(self, session_queue: SessionQueue, work: Chunk | Control) -> None:
        self.multiplexer.add(session_queue, work)
        self.flush()

    def arrive(self) -> None:
        """One message at the server."""
        if self.connection is not None and self.connection.sent:
            self.connection.server.take(self.connection)

    def hear(self) -> None:
        """One message at the client."""
        if self.connection is not None and self.connection.told:
            try:
                self.multiplexer.receive(self.connection.told.popleft().SerializeToString())
            except (DrainingError, ConnectionLostError):
                self.cut()
            self.flush()

    def cut(self, *, late: bool = False) -> None:
        """The connection is gone; what is on its way is lost, or, if late, comes to the server yet."""
        if self.connection is not None:
            if late:
                self.late.append(self.connection)
            else:
                self.connection.server.lose(self.connection)
            self.connection = None
            self.multiplexer.suspend(lambda: ConnectionLostError("gone"), 0.0)
            self.flush()

    def connect(self, server: int) -> None:
        if self.connection is None:
            self.connection = Connection(self.servers[server])
            self.multiplexer.reattach(KEPT)
            self.flush()

    def kill(self, server: int) -> None:
        if self.connection is not None and self.connection.server is self.servers[server]:
            self.cut()
        self.late = [each for each in self.late if each.server is not self.servers[server]]
        self.servers[server].die()

    def come_late(self) -> None:
        """What an old connection still had on its way."""
        for connection in self.late:
            while connection.sent:
                connection.server.take(connection)
            connection.server.lose(connection)
        self.late.clear()

    def settle(self) -> None:
        """Nothing goes wrong any more: everything is answered."""
        self.come_late()
        for server in self.servers:
            server.going_away = False
            for name in server.leaving():
                if server is not self.servers[0] and name not in server.busy():
                    server.park(name)
        for _ in range(2_000):
            self.connect(0)
            assert self.connection is not None
            server = self.connection.server
            if self.connection.sent:
                self.arrive()
            elif self.connection.told:
                self.hear()
            elif busy := server.busy():
                server.answer(busy[0], 100)
            elif leaving := server.leaving():
                server.park(leaving[0])
            else:
                before = self.budget.used
                for name in list(server.resident):
                    server.checkpoint(name)
                while self.connection is not None and self.connection.told:
                    self.hear()
                quiet = self.connection is not None and not self.connection.sent
                if quiet and not server.busy() and before == self.budget.used:
                    return
        raise AssertionError("it never settles")


class Expected:
    """Where a session may stand, as its caller sees it: after steps that nobody waited for there are several."""

    def __init__(self) -> None:
        self.may_be = {(0, 0)}

    def given_up(self, xs: list[int]) -> None:
        """The first of these were taken, however many."""
        at = self.may_be
        for x in xs:
            at = {(position + 1, after(state, x)) for position, state in at}
            self.may_be = self.may_be | at

    def answered(self, first: int, xs: list[int], ys: list[int]) -> None:
        left = set()
        for position, start in self.may_be:
            state, states = start, []
            for x in xs:
                state = after(state, x)
                states.append(state)
            if position == first and states == ys:
                left.add((position + len(xs), state))
        assert left, f"from {self.may_be}: {ys} came for {xs} at {first}"
        self.may_be = left

    def reset(self, *, surely: bool) -> None:
        back = {(position, 0) for position, _ in self.may_be}
        self.may_be = back if surely else self.may_be | back


class Surviving(RuleBasedStateMachine):
    """What callers ask, what servers do, and what goes wrong, in any order."""

    replay_bytes = 1 << 20

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.network = Network(self.replay_bytes)
        self.queues: list[SessionQueue] = []
        self.works: list[tuple[SessionQueue, Chunk | Control, list[list[int]]]] = []
        self.asked = 0

    @initialize(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3), few_are_many=st.booleans())
    def begin(self, sizes: list[int], few_are_many: bool) -> None:
        if few_are_many:
            self.patch.setattr(batcher, "MANY", 2)
        for size in sizes:
            session_queue, work = self.network.open(size)
            self.queues.append(session_queue)
            self.works.append((session_queue, work, []))

    @rule(data=st.data(), length=st.integers(1, 9), ragged=st.booleans())
    def step(self, data: st.DataObject, length: int, ragged: bool) -> None:
        session_queue = data.draw(st.sampled_from(self.queues))
        members = sorted(data.draw(st.sets(st.sampled_from(session_queue.members.tolist()), min_size=1)))
        xs = [[self.asked + k * length + t for t in range(length)] for k in range(len(members))]
        self.asked += length * len(members)
        column = np.array(xs, "<i8")
        chunk = Chunk(members=np.array(members), columns=[column], length=length)
        if ragged:
            lengths = [data.draw(st.integers(1, length)) for _ in members]
            chunk.lengths, chunk.length = np.array(lengths), max(lengths)
            chunk.padding = length - chunk.length
            xs = [row[:count] for row, count in zip(xs, lengths, strict=True)]
        self.works.append((session_queue, chunk, xs))
        self.network.add(session_queue, chunk)

    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        session_queue = data.draw(st.sampled_from(self.queues))
        work = Control(kind=Kind.RESET, members=session_queue.members)
        self.works.append((session_queue, work, []))
        self.network.add(session_queue, work)

    @precondition(lambda self: any(not work.done for _, work, _ in self.works))
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        waiting = [each for each in self.works if not each[1].done and each[1] is not self.opening(each[0])]
        if waiting:
            session_queue, work, _ = data.draw(st.sampled_from(waiting))
            self.network.multiplexer.withdraw(session_queue, work, DeadlineExceededError("late"))
            self.network.flush()

    def opening(self, session_queue: SessionQueue) -> Chunk | Control:
        return next(work for each, work, _ in self.works if each is session_queue)

    @rule(steps=st.integers(1, 3))
    def arrive(self, steps: int) -> None:
        for _ in range(steps):
            self.network.arrive()

    @rule(steps=st.integers(1, 5))
    def hear(self, steps: int) -> None:
        for _ in range(steps):
            self.network.hear()

    @rule(data=st.data(), server=st.integers(0, 1), steps=st.integers(1, 4))
    def answer(self, data: st.DataObject, server: int, steps: int) -> None:
        if busy := self.network.servers[server].busy():
            self.network.servers[server].answer(data.draw(st.sampled_from(busy)), steps)

    @rule(data=st.data(), server=st.integers(0, 1), steps=st.integers(1, 4))
    def answer_together(self, data: st.DataObject, server: int, steps: int) -> None:
        if busy := self.network.servers[server].busy():
            self.network.servers[server].answer_together(data.draw(st.permutations(busy)), steps)

    @rule(data=st.data(), server=st.integers(0, 1))
    def checkpoint(self, data: st.DataObject, server: int) -> None:
        if names := sorted(self.network.servers[server].resident):
            for name in data.draw(st.sets(st.sampled_from(names), min_size=1)):
                self.network.servers[server].checkpoint(name)

    @rule(data=st.data(), turns=st.integers(1, 6))
    def go_on(self, data: st.DataObject, turns: int) -> None:
        """A while in which nothing goes wrong."""
        for _ in range(turns):
            if (connection := self.network.connection) is None:
                return
            while self.network.connection is connection and connection.sent:
                self.network.arrive()
            for name in connection.server.busy():
                connection.server.answer(name, data.draw(st.integers(1, 4)))
            for name in sorted(connection.server.resident):
                if data.draw(st.booleans()):
                    connection.server.checkpoint(name)
            for name in connection.server.leaving():
                if name not in connection.server.busy():
                    connection.server.park(name)
            while self.network.connection is connection and connection.told:
                self.network.hear()

    @rule(
        data=st.data(), how=st.sampled_from(["cut", "late", "kill"]), heard=st.integers(0, 3), server=st.integers(0, 1)
    )
    def disaster(self, data: st.DataObject, how: str, heard: int, server: int) -> None:
        """Steps were taken, perhaps written, and their answers are lost."""
        if (connection := self.network.connection) is None:
            return
        of = connection.server
        while self.network.connection is connection and connection.sent:
            self.network.arrive()
        for name in of.busy():
            of.answer(name, data.draw(st.integers(1, 3)))
        for name in sorted(of.resident):
            if data.draw(st.booleans()):
                of.checkpoint(name)
        for _ in range(heard):
            self.network.hear()
        if how == "kill":
            self.network.kill(self.network.servers.index(of))
        else:
            self.network.cut(late=how == "late")
        self.network.connect(server)

    @rule(data=st.data(), server=st.integers(0, 1))
    def park(self, data: st.DataObject, server: int) -> None:
        """Let go of a session, with what it has yet to do or without."""
        of = self.network.servers[server]
        if names := sorted(of.resident):
            of.park(data.draw(st.sampled_from(names)))

    @rule(data=st.data(), server=st.integers(0, 1))
    def take_no_more(self, data: st.DataObject, server: int) -> None:
        """To hand a session over as soon as it is idle: what comes of it meanwhile is refused."""
        of = self.network.servers[server]
        if names := sorted(of.resident):
            of.resident[data.draw(st.sampled_from(names))].leaving = True

    @rule()
    def go_away(self) -> None:
        # What was never open is refused; its caller asks another server.
        opened = all(self.opening(each).done for each in self.queues)
        if opened and (connection := self.network.connection) is not None and not connection.server.going_away:
            connection.server.going_away = True
            connection.tell(going_away=pb.GoingAway(deadline_ms=1))

    @rule(late=st.booleans())
    def cut(self, late: bool) -> None:
        self.network.cut(late=late)

    @rule(server=st.integers(0, 1))
    def kill(self, server: int) -> None:
        self.network.kill(server)

    @rule(server=st.integers(0, 1))
    def connect(self, server: int) -> None:
        self.network.connect(server)

    @rule()
    def come_late(self) -> None:
        self.network.come_late()

    def teardown(self) -> None:
        for server in self.network.servers:
            if server.going_away:
                self.network.kill(self.network.servers.index(server))
        self.network.settle()
        self.patch.undo()
        expected: dict[tuple[int, int], Expected] = {}
        for session_queue, work, xs in self.works:
            assert work.done
            late = isinstance(work.error, DeadlineExceededError)
            # A chunk behind one that was given up is refused, so that none is taken out of order.
            assert work.error is None or late or type(work.error).__name__ == "PrecedingFailedError", work.error
            for row, member in enumerate(work.members.tolist()):
                session = expected.setdefault((id(session_queue), member), Expected())
                if isinstance(work, Control):
                    if work.kind is Kind.RESET:
                        session.reset(surely=work.error is None)
                elif work.error is None:
                    ys = work.results()[0][row].tolist()
                    session.answered(int(work.first[row]), xs[row], ys[: len(xs[row])])
                    assert not any(ys[len(xs[row]) :])
                elif late:
                    session.given_up(xs[row])
        for session_queue in self.queues:
            for member, name in enumerate(session_queue.ids):
                stands = [
                    (each.position, each.state)
                    for each in (server.resident.get(name) for server in self.network.servers)
                    if each is not None and each.epoch == self.network.store[name].epoch
                ]
                assert len(stands) == 1
                assert stands[0] in expected.get((id(session_queue), member), Expected()).may_be
                assert session_queue.positions[member] == stands[0][0]
        logs = [each.log for each in self.queues if each.log is not None]
        assert self.network.budget.used == sum(each.bytes for each in logs)


def opened() -> tuple[Network, SessionQueue]:
    """A session of its own, of which its client has heard."""
    network = Network()
    session_queue, _ = network.open(1)
    network.arrive()
    network.hear()
    return network, session_queue


def walk(network: Network, session_queue: SessionQueue, xs: list[int], member: int = 0) -> Chunk:
    """One member's steps, asked for."""
    chunk = Chunk(members=np.array([member]), columns=[np.array([xs], "<i8")], length=len(xs))
    network.add(session_queue, chunk)
    return chunk


def allowing(sessions: int) -> pb.Limits:
    """Of a server that has so many sessions on a stream at most."""
    limits = pb.Limits()
    limits.CopyFrom(KEPT)
    limits.sessions_per_stream = sessions
    return limits


def expected(xs: list[int]) -> list[int]:
    return list(itertools.accumulate(xs, after, initial=0))[1:]


def test_what_comes_before_a_hand_over_is_known_goes_to_the_next_owner() -> None:
    network = Network()
    session_queue, opening = network.open(1)
    network.arrive()
    network.hear()
    assert opening.done
    (name,) = network.servers[0].resident
    network.servers[0].resident[name].leaving = True
    work = walk(network, session_queue, [1, 2])
    network.arrive()
    network.hear()
    assert not work.done, "refused, and not known why"
    network.servers[0].park(name)
    network.settle()
    assert work.results()[0][0].tolist() == expected([1, 2])


@pytest.mark.parametrize("reason", [pb.CLOSE_REASON_PARKED, pb.CLOSE_REASON_FENCED])
@pytest.mark.parametrize("ahead", [0, 1])
def test_steps_that_a_server_lets_go_of_go_to_the_next_owner(reason: pb.CloseReason, ahead: int) -> None:
    network, session_queue = opened()
    work = walk(network, session_queue, [1, 2, 3])
    network.arrive()
    server = network.servers[0]
    server.answer("session-0", 1)
    # Its answer will not come: it was to be stored first.
    server.resident["session-0"].position += ahead
    server.let_go("session-0", reason)
    network.settle()
    assert work.error is None
    assert work.results()[0][0].tolist() == expected([1, 2, 3])


@pytest.mark.parametrize(
    ("reason", "closed"),
    [(pb.CLOSE_REASON_PARKED, True), (pb.CLOSE_REASON_FENCED, True), (pb.CLOSE_REASON_IDLE, False)],
)
def test_a_close_whose_session_is_let_go_of_before_its_turn(reason: pb.CloseReason, closed: bool) -> None:
    network, session_queue = opened()
    work = Control(kind=Kind.CLOSE, members=session_queue.members)
    network.add(session_queue, work)
    network.arrive()
    server = network.servers[0]
    server.let_go("session-0", reason)
    assert not network.store["session-0"].closed
    network.settle()
    assert work.done
    assert work.error is None
    assert network.store["session-0"].closed == closed


def test_a_close_that_is_lost_of_a_session_that_another_has_opened_since() -> None:
    network, session_queue = opened()
    work = Control(kind=Kind.CLOSE, members=session_queue.members)
    network.add(session_queue, work)
    network.cut()
    network.store["session-0"].epoch += 7
    network.settle()
    assert work.done
    assert work.error is None
    assert not network.store["session-0"].closed


def test_what_comes_before_a_taking_over_is_known_is_refused() -> None:
    network, session_queue = opened()
    (name,) = network.servers[0].resident
    network.servers[0].resident[name].leaving = True
    work = walk(network, session_queue, [1])
    network.arrive()
    network.hear()
    network.servers[0].let_go(name, pb.CLOSE_REASON_TAKEN_OVER)
    network.hear()
    assert isinstance(work.error, SessionClosedError)
    assert work.error.close_reason == pb.CLOSE_REASON_TAKEN_OVER
    assert isinstance(walk(network, session_queue, [1]).error, SessionClosedError)


def test_steps_answered_while_another_of_the_group_is_parked_are_not_sent_again() -> None:
    network = Network()
    session_queue, _ = network.open(2)
    for _ in range(2):
        network.arrive()
        network.hear()
    work = walk(network, session_queue, [7], member=1)
    network.arrive()
    server = network.servers[0]
    server.park("session-0")
    server.answer("session-1", 1)
    for _ in range(3):
        # Durable and Closed of the one, Results of the other.
        network.hear()
    server.park("session-1")
    network.settle()
    assert work.results()[0][0].tolist() == expected([7])
    assert session_queue.positions.tolist() == [0, 1]


def test_a_client_that_keeps_too_much_says_so_on_each_connection() -> None:
    network = Network(700)
    session_queue, _ = network.open(1)
    network.settle()
    works = [walk(network, session_queue, [x]) for x in (1, 2)]
    for work in works:
        network.arrive()
        network.servers[0].answer("session-0", 1)
        network.hear()
        assert work.done
    waiting = walk(network, session_queue, [3])
    assert network.connection is not None
    assert network.connection.sent.pop().WhichOneof("kind") == "acknowledge"
    network.kill(0)
    network.settle()
    assert waiting.results()[0][0].tolist() == expected([1, 2, 3])[2:]


def test_sessions_that_the_next_server_has_no_room_for_end_and_the_others_go_on() -> None:
    network = Network()
    small, _ = network.open(1)
    large, _ = network.open(3)
    for _ in range(4):
        network.arrive()
        network.hear()
    network.kill(0)
    steps = [walk(network, each, [4]) for each in (small, large)]
    limits = allowing(2)
    network.connection = Connection(network.servers[0])
    network.multiplexer.reattach(limits)
    network.flush()
    network.settle()
    assert steps[0].results()[0][0].tolist() == expected([4])
    assert "allows 2 sessions" in str(steps[1].error)
    assert isinstance(walk(network, large, [4]).error, SessionClosedError)


def test_a_full_stream_whose_handles_are_crossed_gives_way_to_the_next() -> None:
    network = Network()
    limits = allowing(1)
    network.connection = Connection(network.servers[0])
    network.multiplexer = Multiplexer(limits, retry=True, budget=network.budget)
    session_queue, _ = network.open(1)
    network.arrive()
    network.hear()
    work = walk(network, session_queue, [1])
    # The session is let go of while the step is on its way to it.
    network.servers[0].park("session-0")
    network.hear()
    with pytest.raises(ConnectionLostError, match="no handles left"):
        network.multiplexer.receive(network.connection.told.popleft().SerializeToString())
    network.cut()
    network.settle()
    assert work.results()[0][0].tolist() == expected([1])


def test_a_reset_that_was_answered_in_another_order_is_sent_again() -> None:
    network = Network()
    session_queue, _ = network.open(2)
    for _ in range(2):
        network.arrive()
        network.hear()
    before = walk(network, session_queue, [1], member=1)
    network.arrive()
    server = network.servers[0]
    server.answer("session-1", 1)
    network.hear()
    network.add(session_queue, Control(kind=Kind.RESET, members=session_queue.members))
    network.arrive()
    server.answer_together(["session-1", "session-0"], 1)
    network.hear()
    network.kill(0)
    after = walk(network, session_queue, [2], member=1)
    network.settle()
    assert [each.results()[0][0].tolist() for each in (before, after)] == [expected([1]), expected([2])]


def test_no_session_waits_for_another_where_a_server_is_stopping() -> None:
    network = Network()
    idle, _ = network.open(1)
    busy, _ = network.open(1)
    for _ in range(2):
        network.arrive()
        network.hear()
    long = walk(network, busy, [1, 2, 3])
    network.arrive()
    assert network.connection is not None
    network.connection.tell(going_away=pb.GoingAway(deadline_ms=30_000))
    network.hear()
    assert network.connection is None, "it was left"
    network.connect(1)
    short = walk(network, idle, [5])
    network.settle()
    assert [each.results()[0][0].tolist() for each in (long, short)] == [expected([1, 2, 3]), expected([5])]


def lose_and_open(network: Network, work: Control) -> None:
    network.cut()
    network.connect(1)
    network.settle()
    assert work.done


def test_a_session_that_was_created_unheard_is_taken_for_our_own() -> None:
    network = Network()
    session_queue, work = network.opening(["mine"], "create")
    network.arrive()
    lose_and_open(network, work)
    assert work.error is None
    step = walk(network, session_queue, [3])
    network.settle()
    assert step.results()[0][0].tolist() == expected([3])


@pytest.mark.parametrize("epoch", [1, 1 << 52])
def test_a_session_that_another_has_made_is_none_of_ours_however_often_we_ask(epoch: int) -> None:
    network = Network()
    network.store["theirs"] = Stored(epoch, [Checkpoint(0, 0, 0)])
    _, work = network.opening(["theirs"], "create")
    network.arrive()
    lose_and_open(network, work)
    assert isinstance(work.error, SessionExistsError)
    assert network.store["theirs"].epoch == epoch


def test_a_session_that_ended_before_we_asked_whose_it_is_is_created() -> None:
    network = Network()
    _, work = network.opening(["brief"], "create")
    network.store["brief"] = Stored(7, [Checkpoint(0, 0, 0)])
    network.cut()
    network.connect(0)
    network.arrive()
    network.hear()
    network.store["brief"].closed = True
    network.settle()
    assert work.done
    assert work.error is None


class Narrow(Surviving):
    """The same with logs that are full after a message or two."""

    replay_bytes = 700


TestSurviving = Surviving.TestCase
TestSurviving.settings = settings(max_examples=150, stateful_step_count=40)
TestNarrow: Any = Narrow.TestCase
TestNarrow.settings = settings(max_examples=80, stateful_step_count=40)

"""Requests of the Open Inference Protocol that are sent again, and say which position they are meant for."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.server.arrays import Ints
from gatestream.server.config import Limits, TickLimits
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.durability.checkpoints import Key
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.errors import NotFound, OutOfStep, Reason, Refused, StoreUnavailable
from gatestream.server.transport.oip import InferenceCall
from tests.server.transport.test_oip import Client
from tests.support.artifacts import POISON
from tests.support.in_process import serving_here
from tests.support.open_inference import request, sums

LIMITS = Limits(sessions=4, chunk_length=6)
TICK = TickLimits(rows=4, steps=2)


class Server:
    """One that can be killed, and another that takes its place."""

    def __init__(self, path: Path, *, stored: bool):
        self._path = path
        # Nobody who owned something lives: the one before this has been killed.
        self._store = MemoryStore(0.0) if stored else None
        self._life = AsyncExitStack()
        self.catalog: Any = None

    async def start(self) -> None:
        checkpointer = None if self._store is None else Checkpointer(self._store, LIMITS, before_answer=True)
        here = serving_here(self._path, limits=LIMITS, tick=TICK, checkpointer=checkpointer)
        self.catalog = await self._life.enter_async_context(here)

    async def kill(self) -> None:
        await self._life.aclose()

    async def restart(self) -> None:
        await self.kill()
        await self.start()

    async def infer(self, values: Any, sequence: int = 5, **fields: Any) -> oip.ModelInferResponse:
        call = InferenceCall(self.catalog, LIMITS, "tenant")
        try:
            return oip.ModelInferResponse.FromString(
                await call.infer(request(values, sequence, **fields).SerializeToString())
            )
        finally:
            call.end()


@pytest.fixture(params=["memory", "store"])
async def server(accumulator_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    made = Server(accumulator_path, stored=request.param == "store")
    await made.start()
    yield made
    await made.kill()


def ones(steps: int) -> list[list[float]]:
    return [[1, 0]] * steps


async def mismatch(server: Server, position: int, values: Any, **fields: Any) -> None:
    with pytest.raises(OutOfStep, match=f"the sequence's next step is {position}$") as caught:
        await server.infer(values, **fields)
    assert (caught.value.reason, caught.value.position) == (Reason.POSITION_MISMATCH, position)


async def test_an_answer_says_where_the_sequence_stands_behind_it(server: Server) -> None:
    for first, steps in ((0, 1), (1, 3), (4, 1)):
        answer = await server.infer(ones(steps), start=first == 0, first=first)
        assert sums(answer)[-1] == [first + steps, 0]
        assert answer.parameters["gatestream_position"].int64_param == first + steps
    assert not (await server.infer(ones(1))).parameters


async def test_a_repeat_changes_nothing_and_says_where_the_sequence_stands(server: Server) -> None:
    await server.infer(ones(1), start=True, first=0)
    await server.infer(ones(2), first=1)
    for first, start in ((1, False), (0, True), (0, False), (4, False), (2**62, False), (7, True)):
        await mismatch(server, 3, ones(2), first=first, start=start)
    assert sums(await server.infer(ones(1), first=3)) == [[4, 0]]


async def test_a_sequence_begins_again_where_it_is_meant_to(server: Server) -> None:
    await server.infer(ones(3), start=True, first=0)
    answer = await server.infer([[5, 0]], start=True, first=3)
    assert (sums(answer), answer.parameters["gatestream_position"].int64_param) == ([[5, 0]], 4)
    await mismatch(server, 4, [[5, 0]], start=True, first=3)
    assert sums(await server.infer(ones(1), first=4)) == [[6, 0]]


async def test_one_that_is_not_there_begins_at_0_and_nowhere_else(server: Server) -> None:
    await mismatch(server, 0, ones(1), start=True, first=2)
    with pytest.raises(NotFound, match="sequence_id 5 is not here"):
        await server.infer(ones(1), first=0)
    with pytest.raises(NotFound, match="sequence_id 5 is not here"):
        await server.infer(ones(1), first=2)
    assert sums(await server.infer(ones(1), start=True, first=0)) == [[1, 0]]


async def test_the_repeat_of_an_end_finds_nothing(server: Server) -> None:
    await server.infer(ones(2), start=True, first=0)
    await server.infer(ones(1), first=2, end=True)
    with pytest.raises(NotFound, match="sequence_id 5 is not here"):
        await server.infer(ones(1), first=2, end=True)
    assert sums(await server.infer(ones(1), start=True, first=0, end=True)) == [[1, 0]]


async def test_a_sequence_starts_again_when_its_end_has_been_answered(
    accumulator_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = MemoryStore.close

    async def slow(store: MemoryStore, keys: Sequence[Key], epochs: Ints) -> Any:
        await asyncio.sleep(0.01)
        return await close(store, keys, epochs)

    monkeypatch.setattr(MemoryStore, "close", slow)
    server = Server(accumulator_path, stored=True)
    await server.start()
    for _ in range(5):
        await server.infer(ones(2), start=True, first=0)
        await server.infer(ones(1), first=2, end=True)
    assert sums(await server.infer([[7, 0]], start=True, first=0)) == [[7, 0]]
    await server.kill()


@pytest.mark.parametrize("bad", [float("nan"), POISON])
async def test_an_end_that_was_refused_ends_nothing(server: Server, bad: float) -> None:
    await server.infer(ones(2), start=True, first=0)
    with pytest.raises(Refused):
        await server.infer([[bad, 0]], first=2, end=True)
    assert sums(await server.infer(ones(1), first=2, end=True)) == [[3, 0]]


async def test_of_several_at_once_one_is_taken(server: Server) -> None:
    asked = [server.infer(ones(6), start=True, first=0) for _ in range(4)]
    got = await asyncio.gather(*asked, return_exceptions=True)
    assert [sums(each)[-1] for each in got if not isinstance(each, BaseException)] == [[6, 0]]
    assert [each.position for each in got if isinstance(each, OutOfStep)] == [6] * 3


async def test_what_is_meant_for_behind_a_step_that_fails_is_refused_as_that(server: Server) -> None:
    await server.infer(ones(1), start=True, first=0)
    client = Client(server.catalog)
    client.say([[POISON, 0]], 5, first=1)
    client.say(ones(1), 5, first=2)
    client.say(ones(1), 5, first=1)
    parameters = [(await client.hear()).infer_response.parameters for _ in range(3)]
    reasons = [each["gatestream_reason"].string_param for each in parameters]
    assert reasons == ["REASON_STEP_FAILED", "REASON_PRECEDING_FAILED", "REASON_PRECEDING_FAILED"]
    assert all("gatestream_position" not in each for each in parameters)
    assert sums(await server.infer(ones(1), first=1)) == [[2, 0]]


async def test_a_stream_hears_the_position_in_its_order(server: Server) -> None:
    client = Client(server.catalog)
    for first, start in ((0, True), (1, False), (1, False), (2, False), (0, True)):
        client.say(ones(1), 5, first=first, start=start, id=f"{first}")
    answers = [await client.hear() for _ in range(5)]
    assert [each.infer_response.id for each in answers] == ["0", "1", "1", "2", "0"]
    assert [bool(each.error_message) for each in answers] == [False, False, True, False, True]
    positions = [each.infer_response.parameters["gatestream_position"].int64_param for each in answers]
    # A repeat is answered behind all that was accepted before it, and before it by the stream's order.
    assert positions == [1, 2, 2, 3, 3]
    client.stream.half_close()
    assert await client.stream.send_queue.take() is None


async def test_requests_that_wait_for_the_store_come_in_their_order(accumulator_path: Path) -> None:
    server = Server(accumulator_path, stored=True)
    await server.start()
    await server.infer(ones(2), start=True, first=0)
    await server.restart()
    client = Client(server.catalog)
    client.say(ones(1), 5, first=2)
    client.say(ones(1), 5)
    client.say(ones(1), 5, first=3)
    client.say(ones(1), 5, first=4, end=True)
    client.say(ones(1), 6)
    client.say([[9, 0]], 6, start=True)
    answers = [await client.hear() for _ in range(6)]
    got = [each.error_message or sums(each.infer_response)[0][0] for each in answers]
    assert got[:2] == [3, 4]
    assert "next step is 4" in str(got[2])
    assert got[3] == 5
    assert "sequence_id 6 is not here" in str(got[4])
    assert got[5] == 9
    await server.kill()


async def test_what_waits_for_the_store_is_counted(accumulator_path: Path) -> None:
    server = Server(accumulator_path, stored=True)
    await server.start()
    client = Client(server.catalog)
    client.say(ones(1), 5, start=True)
    engine = server.catalog.find("").engine
    # The step, and the question.
    assert engine.admission.rows == 2
    for _ in range(3):
        client.say(ones(6), 5)
    assert engine.admission.rows == 20
    assert [sums((await client.hear()).infer_response)[-1][0] for _ in range(4)] == [1, 7, 13, 19]
    assert engine.admission.rows == 0
    await server.kill()


async def test_a_sequence_that_is_closed_while_the_store_is_asked_refuses_what_waits(accumulator_path: Path) -> None:
    server = Server(accumulator_path, stored=True)
    await server.start()
    client = Client(server.catalog)
    client.say(ones(1), 5, start=True, first=0)
    model = server.catalog.find("")
    session = model.engine.sessions.tenants.find("tenant", "sequence:5")
    model.lifecycle.registry.remove(np.array([session]))
    answer = await client.hear()
    assert answer.infer_response.parameters["gatestream_reason"].string_param == "REASON_SESSION_CLOSED"
    assert model.engine.admission.rows == 0
    await server.kill()


# ---- In any order ---------------------------------------------------------------------------------

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 6)),
        # The answer is lost, or the request is.
        st.tuples(st.just("lose"), st.integers(1, 6), st.booleans()),
        # It comes as often, at once.
        st.tuples(st.just("repeat"), st.integers(1, 6), st.integers(2, 3)),
        # So many turns of the loop after it was sent.
        st.tuples(st.just("kill"), st.integers(1, 6), st.integers(0, 60)),
        # What was sent once comes once more, from a connection that was slow.
        st.tuples(st.just("late"), st.integers(0, 20)),
    ),
    min_size=1,
    max_size=12,
)


class Exact:
    """A client that has each of its rows be taken once, and says what the answers were."""

    def __init__(self, server: Server, rows: Any):
        self._server = server
        self._rows = rows
        self.position = 0
        self.seen: dict[int, list[float]] = {}
        self.sent: list[tuple[int, int]] = []

    async def ask(self, first: int, steps: int) -> None:
        """Send rows; note what is answered, and where the sequence stands."""
        try:
            answer = await self._server.infer(self._rows[first : first + steps], start=first == 0, first=first)
        except OutOfStep as error:
            self.position = max(self.position, error.position)
            return
        self.note(first, answer)

    def note(self, first: int, answer: oip.ModelInferResponse) -> None:
        got = sums(answer)
        for k, row in enumerate(got):
            # Nothing is answered twice, and unlike.
            assert self.seen.setdefault(first + k, row) == row
        self.position = max(self.position, answer.parameters["gatestream_position"].int64_param)
        assert answer.parameters["gatestream_position"].int64_param == first + len(got)

    async def until_taken(self, steps: int) -> None:
        """Send rows until the sequence stands behind them."""
        until = self.position + steps
        while self.position < until:
            await self.ask(self.position, until - self.position)

    async def event(self, kind: str, steps: int, more: int = 0) -> None:
        first, server = self.position, self._server
        if kind == "late":
            if self.sent:
                await self.ask(*self.sent[steps % len(self.sent)])
            return
        self.sent.append((first, steps))
        match kind:
            case "lose" if more:
                with suppress(OutOfStep):
                    await server.infer(self._rows[first : first + steps], start=first == 0, first=first)
            case "repeat":
                await asyncio.gather(*(self.ask(first, steps) for _ in range(more)))
            case "kill":
                asked = asyncio.ensure_future(self.ask(first, steps))
                for _ in range(more):
                    await asyncio.sleep(0)
                await server.kill()
                asked.cancel()
                with suppress(asyncio.CancelledError, StoreUnavailable):
                    await asked
                await server.start()
        await self.until_taken(max(0, first + steps - self.position))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS)
async def test_each_step_is_taken_once_whatever_is_lost_and_repeated(
    accumulator_path: Path, events: Sequence[Any]
) -> None:
    rows = np.random.default_rng(len(events)).integers(1, 1000, (80, 2)).astype(np.float32)
    server = Server(accumulator_path, stored=True)
    await server.start()
    client = Exact(server, rows)
    try:
        for event in events:
            await client.event(*event)
        await client.until_taken(1)
    finally:
        await server.kill()
    expected = np.cumsum(rows, axis=0)
    for position, row in client.seen.items():
        assert row == expected[position].tolist()
    assert client.position - 1 in client.seen

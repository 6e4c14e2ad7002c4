"""Our own protocol, message by message, without a transport: what is answered, and what is refused and how."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.config import Limits
from gatestream.server.core.catalog import Catalog
from tests.support.in_process import Client, serving_here

LIMITS = Limits(sessions=8, sessions_per_stream=4, chunk_length=6, rows_per_stream=24)
ROW = bytes(8)


@pytest.fixture
async def catalog(accumulator_path: Path) -> AsyncIterator[Catalog]:
    async with serving_here(accumulator_path, limits=LIMITS) as served:
        yield served


@pytest.fixture
async def client(catalog: Catalog) -> AsyncIterator[Client]:
    """With the sessions 0 and 1."""
    made = Client(catalog, LIMITS)
    for handle in range(2):
        assert (await made.open(handle)).opened.handle == handle
    yield made
    made.stream.disconnect()


def steps(handle: list[int], **fields: Any) -> pb.Steps:
    rows = sum(fields.get("length") or [1] * len(handle))
    return pb.Steps(**{"handle": handle, "input": [ROW * rows], **fields})


def step_of(answer: pb.ServerMessage) -> tuple[list[int], list[int], list[float]]:
    """Handles, positions, and the first number of each row."""
    assert answer.HasField("results"), answer
    y = np.frombuffer(answer.results.output[0], "<f4").reshape(-1, 2)[:, 0]
    return list(answer.results.handle), list(answer.results.first), y.tolist()


async def test_a_session_from_its_open_to_its_close(catalog: Catalog) -> None:
    client = Client(catalog, LIMITS)
    opened = (await client.open(3, session_id="mine")).opened
    assert (opened.handle, opened.session_id, opened.model, opened.position, opened.created) == (
        *(3, "mine", "accumulator"),
        *(0, True),
    )
    assert not client.stream.idle
    client.send(3, 2.0, length=2)
    assert step_of(await client.hear()) == ([3], [0], [2, 4])
    client.say(reset=pb.Reset(handle=[3]))
    assert (await client.hear()).reset_done.position == [2]
    client.send(3, 2.0)
    assert step_of(await client.hear()) == ([3], [2], [2])
    client.say(close=pb.Close(handle=[3]))
    closed = (await client.hear()).closed
    assert (list(closed.handle), list(closed.position), closed.reason) == ([3], [3], pb.CLOSE_REASON_REQUESTED)
    assert client.stream.idle


async def test_all_of_a_message_is_answered_as_one(client: Client) -> None:
    x = np.arange(8, dtype="<f4").tobytes()
    client.say(steps=pb.Steps(handle=[1, 0], length=[2, 2], input=[x]))
    assert step_of(await client.hear()) == ([1, 0], [0, 0], [0, 2, 4, 10])


@pytest.mark.parametrize("times", [1, 2, 3, 6])
async def test_a_message_like_the_one_before_is_answered_alike(client: Client, times: int) -> None:
    # The third of its kind is the first that is not parsed.
    for k in range(times):
        client.send(0, 1.0)
        assert step_of(await client.hear()) == ([0], [k], [k + 1])
    # What was remembered is of no use for one whose session has another handle now.
    client.say(close=pb.Close(handle=[0]))
    await client.hear()
    client.send(0, 1.0)
    assert (await client.hear()).error.reason == pb.REASON_HANDLE_UNKNOWN
    await client.open(0)
    client.send(0, 1.0)
    assert step_of(await client.hear()) == ([0], [0], [1])


@pytest.mark.parametrize(
    ("message", "reason", "says"),
    [
        ({}, "MALFORMED", "the message is empty; expected open, steps, reset, close or acknowledge"),
        ({"open": pb.Open(handle=4)}, "MALFORMED", "open.handle is 4; expected less than 4, the sessions that one"),
        ({"open": pb.Open(handle=1)}, "HANDLE_IN_USE", "open.handle 1 is in use on this stream"),
        ({"open": pb.Open(handle=2, mode=9)}, "MALFORMED", "open.mode is 9; expected one of"),  # type: ignore[arg-type]
        ({"open": pb.Open(handle=2, outputs=7)}, "MALFORMED", "open.outputs is 7; expected one of"),  # type: ignore[arg-type]
        ({"open": pb.Open(handle=2, model="other")}, "MODEL_UNKNOWN", "no model 'other' here; there is: accumulator"),
        ({"open": pb.Open(handle=2, gates=True)}, "NO_GATES", "gates were asked for"),
        ({"open": pb.Open(handle=2, session_id="a b")}, "SESSION_ID_INVALID", "session_id is 'a b'; expected"),
        ({"open": pb.Open(handle=2, session_id="x", mode=pb.OPEN_MODE_RESUME)}, "SESSION_UNKNOWN", "no session 'x'"),
        ({"reset": pb.Reset(handle=[2])}, "HANDLE_UNKNOWN", "handle 2"),
        ({"reset": pb.Reset(handle=[0, 0])}, "HANDLE_REPEATED", "handle 0 stands more than once in the message"),
        ({"close": pb.Close(handle=[0, 1, 2, 3, 3])}, "MALFORMED", "close.handle has 5 entries; expected at most 4"),
        ({"steps": steps([2])}, "HANDLE_UNKNOWN", "handle 2"),
        ({"steps": steps([0, 0])}, "HANDLE_REPEATED", "handle 0 stands more than once in the message"),
        ({"steps": steps([])}, "MALFORMED", "steps.handle is empty; expected at least one entry"),
        ({"steps": steps([0], length=[0])}, "CHUNK_EMPTY", "steps.length of handle 0 is 0; expected at least 1"),
        ({"steps": steps([0], length=[7])}, "CHUNK_TOO_LONG", "steps.length of handle 0 is 7; expected at most 6"),
        ({"steps": steps([0], length=[1, 1])}, "MALFORMED", "steps.length has 2 elements, steps.handle 1"),
        ({"steps": steps([0], first=[5])}, "POSITION_MISMATCH", "first is 5; the session's next step is 0"),
        ({"steps": steps([0], input=[])}, "MALFORMED", "steps.input has 0 columns"),
        ({"steps": steps([0], input=[ROW, ROW])}, "MALFORMED", "steps.input has 2 columns"),
        ({"steps": steps([0], input=[ROW[1:]])}, "MALFORMED", "input 'x'"),
        (
            {"steps": steps([0], input=[np.array([0, np.inf], "<f4").tobytes()])},
            "NOT_FINITE",
            "input 'x' holds NaN or infinity at step 0 of the entry",
        ),
    ],
)
async def test_what_is_wrong_is_said_and_changes_nothing(
    client: Client, message: dict[str, Any], reason: str, says: str
) -> None:
    client.say(**message)
    error = (await client.hear()).error
    assert (error.reason, says in error.message) == (pb.Reason.Value(f"REASON_{reason}"), True), error
    assert [await client.step(handle, 1.0) for handle in range(2)] == [1, 1]


async def test_of_several_entries_only_the_wrong_ones_are_refused(client: Client) -> None:
    client.say(steps=steps([1, 2, 0], first=[0, 0, 3]))
    said = [await client.hear() for _ in range(3)]
    errors = {tuple(each.error.handle): each.error.reason for each in said if each.HasField("error")}
    assert errors == {(2,): pb.REASON_HANDLE_UNKNOWN, (0,): pb.REASON_POSITION_MISMATCH}
    assert [step_of(each) for each in said if each.HasField("results")] == [([1], [0], [0])]


async def test_an_acknowledge_that_crosses_the_end_of_a_session_is_passed_over(client: Client) -> None:
    await client.open(0)
    client.say(acknowledge=pb.Acknowledge(handle=[0, 1, 9_999_999], sequence=[0, 3, 4]))
    assert await client.step(0, 1.0) == 1


async def test_a_half_close_answers_closes_and_ends(client: Client) -> None:
    client.send(0, 1.0)
    client.stream.half_close()
    said = [await client.hear() for _ in range(3)]
    assert sorted(handle for each in said for handle in each.closed.handle) == [0, 1]
    assert [step_of(each) for each in said if each.HasField("results")] == [([0], [0], [1])]
    assert await client.stream.send_queue.take() is None


async def test_who_goes_leaves_nothing(catalog: Catalog, client: Client) -> None:
    client.send(0, 1.0, length=5)
    client.stream.disconnect()
    assert len(catalog.find("").engine.sessions) == 0
    await catalog.find("").engine.quiet()
    assert catalog.check() == []


async def test_a_session_goes_to_who_asks_for_it(catalog: Catalog) -> None:
    first, second = Client(catalog, LIMITS), Client(catalog, LIMITS)
    await first.open(0, session_id="shared")
    assert await first.step(0, 1.0) == 1
    first.send(0, 1.0)
    opened = await second.open(2, session_id="shared", mode=pb.OPEN_MODE_RESUME)
    assert (opened.opened.position, opened.opened.created) == (2, False)
    assert step_of(await first.hear()) == ([0], [1], [2])
    assert (await first.hear()).closed.reason == pb.CLOSE_REASON_TAKEN_OVER
    first.send(0, 1.0)
    assert (await first.hear()).error.reason == pb.REASON_HANDLE_UNKNOWN
    assert await second.step(2, 1.0) == 3


async def test_a_server_that_stops_says_so(client: Client) -> None:
    client.stream.going_away(2.5)
    assert (await client.hear()).going_away.deadline_ms == 2500
    # It ends with its last session.
    client.say(close=pb.Close(handle=[0, 1]))
    assert list((await client.hear()).closed.handle) == [0, 1]
    assert await client.stream.send_queue.take() is None

"""What a stream may ask for and not get: the exact answer, and nothing else changed."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.support.process import ServerProcess
from tests.support.wire import Stream, encode

pytestmark = pytest.mark.usefixtures("neighbour")

NAN, INF = float("nan"), float("inf")


def ones(rows: int) -> bytes:
    return encode(np.ones((rows, 2)))


@pytest.fixture
def stream(server: ServerProcess) -> Iterator[Stream]:
    """Sessions 0 and 1 of the accumulator, each at position 1, and 2 of the counter."""
    with Stream(server.address) as stream:
        for handle in (0, 1):
            stream.opened(handle, model="accumulator")
            stream.stepped(handle, [[1, 1]])
        stream.opened(2, model="counter")
        yield stream


def check_untouched(stream: Stream, taken: dict[int, int]) -> None:
    """Sessions 0 and 1 stand where they stood, but for steps of ones that were taken since."""
    for handle in (0, 1):
        position = 1 + taken.get(handle, 0)
        stream.steps({handle: [[10, 20]]}, first=[position])
        results = stream.expect("results")
        assert list(results.first) == [position]
        assert results.output[0] == encode([[position + 10, position + 20]])


def check(stream: Stream, steps: pb.Steps, error: pb.Error, *says: str, taken: dict[int, int] | None = None) -> None:
    """The steps are answered by this error, whose message says this; entries that were not at fault are taken."""
    stream.send(pb.ClientMessage(steps=steps))
    got = stream.refused()
    for part in says:
        assert part in got.message
    got.ClearField("message")
    assert got == error
    taken = taken or {}
    for handle, y in stream.results(taken, 2).items():
        np.testing.assert_array_equal(y[:, 0], np.arange(taken[handle]) + 2)
    check_untouched(stream, taken)


def test_a_message_of_no_kind(stream: Stream) -> None:
    stream.send(pb.ClientMessage())
    error = stream.refused()
    assert error.reason == pb.REASON_MALFORMED
    assert "empty" in error.message
    assert "open, steps, reset, close or acknowledge" in error.message
    check_untouched(stream, {})


def test_steps_of_no_session(stream: Stream) -> None:
    check(stream, pb.Steps(input=[ones(1)]), pb.Error(reason=pb.REASON_MALFORMED), "steps.handle is empty")


@pytest.mark.parametrize("length", [[2], [1, 1, 1]])
def test_lengths_that_do_not_match_the_handles(stream: Stream, length: list[int]) -> None:
    check(
        stream,
        pb.Steps(handle=[0, 1], length=length, input=[ones(sum(length))]),
        pb.Error(handle=[0, 1], reason=pb.REASON_MALFORMED),
        f"steps.length has {len(length)}",
        "steps.handle 2",
    )


def test_positions_that_do_not_match_the_handles(stream: Stream) -> None:
    check(
        stream,
        pb.Steps(handle=[0, 1], length=[1, 1], first=[1], input=[ones(2)]),
        pb.Error(handle=[0, 1], length=[1, 1], reason=pb.REASON_MALFORMED),
        "steps.first has 1",
        "steps.handle 2",
    )


@pytest.mark.parametrize("position", [2**63, 2**64 - 1])
def test_a_position_that_no_session_can_have(stream: Stream, position: int) -> None:
    check(
        stream,
        pb.Steps(handle=[0], first=[position], input=[ones(1)]),
        pb.Error(handle=[0], first=[position], reason=pb.REASON_MALFORMED),
        "steps.first",
        str(position),
        "2^63",
    )


@pytest.mark.parametrize("position", [0, 2, 2**63 - 1])
def test_a_position_where_the_session_does_not_stand(stream: Stream, position: int) -> None:
    check(
        stream,
        pb.Steps(handle=[1, 0], length=[1, 2], first=[1, position], input=[ones(3)]),
        pb.Error(
            handle=[0], position=[1], first=[position], length=[2], reason=pb.REASON_POSITION_MISMATCH, sequence=[1]
        ),
        f"first is {position}",
        "next step is 1",
        taken={1: 1},
    )


@pytest.mark.parametrize("columns", [0, 2])
def test_another_number_of_columns_than_the_model_has_inputs(stream: Stream, columns: int) -> None:
    check(
        stream,
        pb.Steps(handle=[0], input=[ones(1)] * columns),
        pb.Error(handle=[0], reason=pb.REASON_MALFORMED),
        f"steps.input has {columns} columns",
        "1 inputs: x",
    )


@pytest.mark.parametrize("size", [0, 7, 9, 16])
def test_a_column_of_the_wrong_size(stream: Stream, size: int) -> None:
    check(
        stream,
        pb.Steps(handle=[0], input=[bytes(size)]),
        pb.Error(handle=[0], reason=pb.REASON_MALFORMED),
        f"'x' has {size} bytes",
        "expected 8",
    )


def test_lengths_whose_sum_no_column_could_have(stream: Stream) -> None:
    length = [2**32 - 1] * 2
    check(
        stream,
        pb.Steps(handle=[0, 1], length=length, input=[ones(1)]),
        pb.Error(handle=[0, 1], length=length, reason=pb.REASON_MALFORMED),
        f"expected {8 * sum(length)}",
    )


def test_a_chunk_of_no_steps(stream: Stream) -> None:
    check(
        stream,
        pb.Steps(handle=[0, 1], length=[0, 2], input=[ones(2)]),
        pb.Error(handle=[0], length=[0], reason=pb.REASON_CHUNK_EMPTY),
        "steps.length of handle 0 is 0",
        "at least 1",
        taken={1: 2},
    )


def test_a_lone_chunk_of_no_steps(stream: Stream) -> None:
    check(
        stream,
        pb.Steps(handle=[0], length=[0], input=[b""]),
        pb.Error(handle=[0], length=[0], reason=pb.REASON_CHUNK_EMPTY),
    )


def test_a_chunk_that_is_too_long(stream: Stream) -> None:
    check(
        stream,
        pb.Steps(handle=[0, 1], length=[16385, 1], input=[ones(16386)]),
        pb.Error(handle=[0], length=[16385], reason=pb.REASON_CHUNK_TOO_LONG),
        "steps.length of handle 0 is 16385",
        "at most 16384",
        taken={1: 1},
    )


@pytest.mark.parametrize("handle", [3, 9_999, 10_000, 2**32 - 1])
def test_a_handle_that_was_never_opened(stream: Stream, handle: int) -> None:
    check(
        stream,
        pb.Steps(handle=[handle, 0], length=[1, 1], first=[0, 1], input=[ones(2)]),
        pb.Error(handle=[handle], first=[0], length=[1], reason=pb.REASON_HANDLE_UNKNOWN),
        f"handle {handle} ",
        taken={0: 1},
    )


def test_only_handles_that_were_never_opened(stream: Stream) -> None:
    check(
        stream,
        pb.Steps(handle=[5, 6], input=[ones(2)]),
        pb.Error(handle=[5, 6], reason=pb.REASON_HANDLE_UNKNOWN),
        "handle 5 ",
    )


def test_a_handle_twice_in_a_message(stream: Stream) -> None:
    check(
        stream,
        pb.Steps(handle=[0, 1, 0], length=[1, 1, 2], input=[ones(4)]),
        pb.Error(handle=[0, 0], length=[1, 2], reason=pb.REASON_HANDLE_REPEATED),
        "handle 0 stands more than once",
        taken={1: 1},
    )


@pytest.mark.parametrize("number", [NAN, INF, -INF])
def test_numbers_that_would_stay_in_the_state_for_ever(stream: Stream, number: float) -> None:
    check(
        stream,
        pb.Steps(handle=[0, 1], length=[2, 1], input=[encode([[1, 1], [1, number], [1, 1]])]),
        pb.Error(handle=[0], position=[1], first=[1], length=[2], reason=pb.REASON_NOT_FINITE),
        "'x' holds NaN or infinity at step 1",
        "finite",
        taken={1: 1},
    )


@pytest.mark.parametrize("token", [-1, 4, 2**63 - 1, -(2**63)])
def test_a_token_that_the_vocabulary_does_not_have(stream: Stream, token: int) -> None:
    check(
        stream,
        pb.Steps(handle=[2], length=[2], input=[encode([0, token], "<i8")]),
        pb.Error(handle=[2], position=[0], first=[0], length=[2], reason=pb.REASON_TOKEN_OUT_OF_RANGE),
        f"'x' is {token} at step 1",
        "0 to 3",
    )
    stream.send(pb.ClientMessage(steps=pb.Steps(handle=[2], first=[0], input=[encode([3], "<i8")])))
    assert stream.expect("results").output[0] == encode([0, 0, 0, 1])


def test_sessions_of_two_models_in_one_message(stream: Stream) -> None:
    check(
        stream,
        pb.Steps(handle=[0, 2, 1], input=[ones(3)]),
        pb.Error(handle=[2], length=[1], reason=pb.REASON_MALFORMED),
        "handle 2 ",
        "another model",
        taken={0: 1, 1: 1},
    )


def test_several_faults_in_one_message_are_told_apart(stream: Stream) -> None:
    rows = encode([[1, 1], [NAN, 1], [1, 1]])
    stream.send(pb.ClientMessage(steps=pb.Steps(handle=[5, 0, 1], length=[1, 1, 1], first=[0, 1, 7], input=[rows])))
    errors = [stream.refused() for _ in range(3)]
    assert {(error.handle[0], error.reason) for error in errors} == {
        (5, pb.REASON_HANDLE_UNKNOWN),
        (0, pb.REASON_NOT_FINITE),
        (1, pb.REASON_POSITION_MISMATCH),
    }
    check_untouched(stream, {})


def test_a_handle_whose_session_was_closed(stream: Stream) -> None:
    stream.close(2)
    assert list(stream.expect("closed").handle) == [2]
    check(
        stream,
        pb.Steps(handle=[2], input=[ones(1)]),
        pb.Error(handle=[2], reason=pb.REASON_HANDLE_UNKNOWN),
        "handle 2 ",
        "open it first",
    )


@pytest.mark.parametrize("kind", ["reset", "close"])
def test_reset_and_close_of_a_handle_that_was_never_opened(stream: Stream, kind: str) -> None:
    getattr(stream, kind)(7)
    error = stream.refused()
    assert (list(error.handle), error.reason) == ([7], pb.REASON_HANDLE_UNKNOWN)
    check_untouched(stream, {})


def test_close_twice_in_one_message(stream: Stream) -> None:
    stream.close(2, 2)
    error = stream.refused()
    assert (list(error.handle), error.reason) == ([2, 2], pb.REASON_HANDLE_REPEATED)
    assert "handle 2 stands more than once" in error.message
    check_untouched(stream, {})
    stream.close(2)
    assert list(stream.expect("closed").handle) == [2]


# ---- Open ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "session_id", ["x" * 129, "a b", "a/b", "a\n", "\n", "a\x00b", "\x1b[31m", "\u00fc", "\u0661", "a" * 50_000]
)
def test_an_id_that_no_session_may_have(stream: Stream, session_id: str) -> None:
    stream.open(3, session_id, model="accumulator")
    error = stream.refused()
    assert (list(error.handle), error.reason) == ([3], pb.REASON_SESSION_ID_INVALID)
    assert "session_id" in error.message
    assert "1 to 128 characters of A-Z a-z 0-9 . _ : -" in error.message
    assert len(error.message) < 1000
    assert error.message.isprintable()
    # The handle is free.
    stream.opened(3, model="accumulator")
    check_untouched(stream, {})


def test_ids_that_a_session_may_have(stream: Stream) -> None:
    longest = ("AZaz09._:-" * 13)[:128]
    assert stream.opened(3, longest, model="accumulator").session_id == longest
    made = [stream.opened(handle, model="accumulator").session_id for handle in (4, 5)]
    assert len(set(made)) == 2
    assert all(len(item) == 22 for item in made)


@pytest.mark.parametrize(
    ("fields", "reason", "says"),
    [
        ({"model": "none"}, pb.REASON_MODEL_UNKNOWN, ["'none'", "accumulator, counter"]),
        ({}, pb.REASON_MODEL_UNKNOWN, ["model is empty", "accumulator, counter"]),
        ({"model": "accumulator", "version": "7"}, pb.REASON_MODEL_UNKNOWN, ["'1'", "'7'"]),
        ({"model": "accumulator", "gates": True}, pb.REASON_NO_GATES, ["gates", "'accumulator'"]),
        (
            {"model": "accumulator", "mode": pb.OPEN_MODE_RESUME, "session_id": "nobody"},
            pb.REASON_SESSION_UNKNOWN,
            ["'nobody'"],
        ),
        ({"model": "accumulator", "mode": pb.OPEN_MODE_RESUME}, pb.REASON_SESSION_UNKNOWN, ["''"]),
    ],
)
def test_an_open_that_asks_for_what_is_not_there(
    stream: Stream, fields: dict[str, Any], reason: pb.Reason, says: list[str]
) -> None:
    stream.send(pb.ClientMessage(open=pb.Open(handle=3, **fields)))
    error = stream.refused()
    assert (list(error.handle), error.reason) == ([3], reason)
    for part in says:
        assert part in error.message
    check_untouched(stream, {})


def test_an_open_that_would_make_what_is_there(stream: Stream) -> None:
    stream.opened(3, "taken", model="accumulator")
    stream.open(4, "taken", model="accumulator", mode=pb.OPEN_MODE_CREATE)
    error = stream.refused()
    assert (list(error.handle), error.reason) == ([4], pb.REASON_SESSION_EXISTS)
    assert "'taken'" in error.message
    check_untouched(stream, {})


def test_an_open_with_a_handle_in_use(stream: Stream) -> None:
    stream.open(0, model="accumulator")
    error = stream.refused()
    assert (list(error.handle), error.reason) == ([0], pb.REASON_HANDLE_IN_USE)
    assert "handle 0 is in use" in error.message
    check_untouched(stream, {})


@pytest.mark.parametrize(("field", "expected"), [("mode", "OPEN_MODE_RESUME"), ("outputs", "OUTPUTS_NONE")])
def test_an_open_with_a_word_of_a_later_version(stream: Stream, field: str, expected: str) -> None:
    later = pb.Open(handle=3, model="accumulator")
    setattr(later, field, 9)
    stream.send(pb.ClientMessage(open=later))
    error = stream.refused()
    assert (list(error.handle), error.reason) == ([3], pb.REASON_MALFORMED)
    assert f"open.{field} is 9; expected one of" in error.message
    assert expected in error.message
    check_untouched(stream, {})


@pytest.mark.parametrize("handle", [10_000, 2**32 - 1])
def test_an_open_with_a_handle_beyond_the_limit(stream: Stream, handle: int) -> None:
    stream.open(handle, model="accumulator")
    error = stream.refused()
    assert (list(error.handle), error.reason) == ([handle], pb.REASON_MALFORMED)
    assert f"handle is {handle}" in error.message
    assert "less than 10000" in error.message
    check_untouched(stream, {})

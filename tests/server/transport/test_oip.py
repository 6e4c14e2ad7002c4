"""The Open Inference Protocol, request by request, without a transport."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.server.config import Limits
from gatestream.server.core.catalog import Catalog
from gatestream.server.errors import Draining, InvalidRequest, NotFound
from gatestream.server.transport.oip import InferenceCall, InferenceStream
from tests.support.artifacts import POISON
from tests.support.in_process import serving_here
from tests.support.open_inference import request, sums

LIMITS = Limits(sessions=4, chunk_length=6)


@pytest.fixture
async def catalog(accumulator_path: Path) -> AsyncIterator[Catalog]:
    async with serving_here(accumulator_path, limits=LIMITS) as served:
        yield served


class Client:
    """One ModelStreamInfer call."""

    def __init__(self, catalog: Catalog, tenant: str = "tenant"):
        self.stream = InferenceStream(catalog, LIMITS, tenant)

    def say(self, values: Any, sequence: int | str | None = None, **fields: Any) -> None:
        self.stream.receive(request(values, sequence, **fields).SerializeToString())

    async def hear(self) -> oip.ModelStreamInferResponse:
        item = await self.stream.send_queue.take()
        assert item is not None, "the stream has ended"
        self.stream.rows -= item[1]
        return oip.ModelStreamInferResponse.FromString(bytes(item[0]))

    async def sums(self) -> list[list[float]]:
        answer = await self.hear()
        assert answer.error_message == ""
        return sums(answer.infer_response)


def sequences(catalog: Catalog) -> int:
    return len(catalog.find("").engine.sessions)


async def test_a_sequence_from_its_start_to_its_end(catalog: Catalog) -> None:
    client = Client(catalog)
    client.say([[1, 2]], 5, start=True)
    client.say([[1, 2], [1, 2]], 5)
    client.say([[1, 2]], 5, end=True)
    assert [await client.sums() for _ in range(3)] == [[[1, 2]], [[2, 4], [3, 6]], [[4, 8]]]
    assert sequences(catalog) == 0
    client.say([[1, 2]], 5)
    assert "sequence_id 5 is not here" in (await client.hear()).error_message


@pytest.mark.parametrize("times", [1, 2, 3, 5])
async def test_a_request_like_the_one_before_is_answered_alike(catalog: Catalog, times: int) -> None:
    client = Client(catalog)
    client.say([[0, 0]], "a", start=True)
    await client.hear()
    for k in range(times):
        client.say([[1, 0]], "a", id="same")
        answer = await client.hear()
        assert (answer.infer_response.id, sums(answer.infer_response)) == ("same", [[k + 1, 0]])
    # What was remembered goes on with the sequence of that name, whichever it is by now.
    client.say([[5, 0]], "a", start=True)
    client.say([[1, 0]], "a", id="same")
    assert [await client.sums() for _ in range(2)] == [[[5, 0]], [[6, 0]]]


async def test_without_a_sequence_nothing_is_kept(catalog: Catalog) -> None:
    client = Client(catalog)
    for _ in range(2):
        client.say([[1, 2], [3, 4]])
        assert await client.sums() == [[1, 2], [4, 6]]
    assert sequences(catalog) == 0


async def test_answers_come_in_the_order_of_the_requests(catalog: Catalog) -> None:
    client = Client(catalog)
    client.say([[1, 0]] * 6, 1, start=True)
    client.say([[1, 0]], 2)
    client.say([[1, 0]], 3, start=True)
    client.say([[float("nan"), 0]], 3)
    client.say([[1, 0]], 1)
    answers = [await client.hear() for _ in range(5)]
    assert [bool(each.error_message) for each in answers] == [False, True, False, True, False]
    assert [sums(each.infer_response)[-1][0] for each in answers if not each.error_message] == [6, 1, 7]
    assert all(each.infer_response.parameters["triton_final_response"].bool_param for each in answers)


async def test_two_tenants_have_sequences_of_their_own(catalog: Catalog) -> None:
    one, other = Client(catalog, "one"), Client(catalog, "other")
    for k, client in enumerate((one, other)):
        client.say([[k + 1, 0]], 5, start=True)
        assert await client.sums() == [[k + 1, 0]]
    one.say([[1, 0]], 5)
    assert await one.sums() == [[2, 0]]


async def test_a_sequence_outlives_its_call_and_goes_on_at_another(catalog: Catalog) -> None:
    first, second = Client(catalog), Client(catalog)
    first.say([[1, 0]], 5, start=True)
    await first.hear()
    first.stream.disconnect()
    second.say([[1, 0]], 5)
    assert await second.sums() == [[2, 0]]


async def test_a_failed_run_fails_its_request_and_what_stands_behind_it(catalog: Catalog) -> None:
    client = Client(catalog)
    client.say([[1, 0]], 5, start=True)
    client.say([[POISON, 0]], 5)
    client.say([[1, 0]], 5)
    answers = [await client.hear() for _ in range(3)]
    assert [bool(each.error_message) for each in answers] == [False, True, True]
    client.say([[1, 0]], 5)
    assert await client.sums() == [[2, 0]]


async def test_a_half_close_ends_it_when_all_is_answered(catalog: Catalog) -> None:
    client = Client(catalog)
    client.say([[1, 0]], 5, start=True)
    client.stream.half_close()
    assert await client.sums() == [[1, 0]]
    assert await client.stream.send_queue.take() is None
    assert client.stream.idle


async def test_one_call_has_one_answer(catalog: Catalog) -> None:
    call = InferenceCall(catalog, LIMITS, "tenant")
    answer = oip.ModelInferResponse.FromString(await call.infer(request([[1, 2]], 5, start=True).SerializeToString()))
    call.end()
    assert sums(answer) == [[1, 2]]
    for asked, error in (
        (request([[1, 2]], 6), NotFound),
        (request([[1, 2]] * 7, 5), InvalidRequest),
        (request([[1, float("inf")]], 5), InvalidRequest),
    ):
        call = InferenceCall(catalog, LIMITS, "tenant")
        with pytest.raises(error):
            await call.infer(asked.SerializeToString())
        call.end()


async def test_a_server_that_stops_starts_no_sequence_and_goes_on_with_those_there_are(catalog: Catalog) -> None:
    client = Client(catalog)
    client.say([[1, 0]], 5, start=True)
    await client.hear()
    catalog.drain()
    client.say([[1, 0]], 5)
    assert await client.sums() == [[2, 0]]
    client.say([[1, 0]], 6, start=True)
    said = (await client.hear()).error_message
    assert said == "the server is about to stop; start the sequence on another server"
    call = InferenceCall(catalog, LIMITS, "tenant")
    with pytest.raises(Draining):
        await call.infer(request([[1, 0]]).SerializeToString())
    call.end()

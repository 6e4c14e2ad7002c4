"""Requests of the Open Inference Protocol as records, recognised or parsed, and the bytes of their answers."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.server.config import Limits
from gatestream.server.core.admission import Caller
from gatestream.server.core.catalog import Catalog
from gatestream.server.errors import InvalidRequest, OutOfStep
from gatestream.server.sequence_ids import sequence_session
from gatestream.server.transport.oip_codec import InferenceCodec, Invalid, Request
from tests.support.in_process import serving_here
from tests.support.lstm import Lstm
from tests.support.open_inference import request

LIMITS = Limits(sessions=8, chunk_length=6)
TENANT = "tenant"
SEQUENCES = 1, 2, 3, 5, "a", "b"


@pytest.fixture
async def catalog(accumulator_path: Path) -> AsyncIterator[Catalog]:
    """A model of which these sequences have begun: only those that are there are recognised."""
    async with serving_here(accumulator_path, limits=LIMITS) as served:
        for each in SEQUENCES:
            begin(served, each)
        yield served


def begin(catalog: Catalog, sequence: int | str) -> int:
    holder = Caller(catalog.accounts.of(TENANT))
    return catalog.find("").lifecycle.sequences.session(holder, TENANT, sequence_session(sequence), start=True)


def codec(catalog: Catalog) -> InferenceCodec:
    return InferenceCodec(catalog, LIMITS, TENANT, streamed=True)


def asked_by(decoder: InferenceCodec, data: bytes) -> tuple[Request, list[bytes]]:
    decoded = decoder.decode(data)
    assert not isinstance(decoded, Invalid), decoded
    return decoded[0], list(decoded[1])


def said(decoder: InferenceCodec, data: bytes) -> tuple[Any, ...]:
    """What was decoded, or raised, in plain values."""
    try:
        decoded = decoder.decode(data)
    except InvalidRequest as raised:
        return (str(raised),)
    if isinstance(decoded, Invalid):
        return decoded.id, str(decoded.error)
    request, columns = decoded
    return replace(request, weight=0), list(columns)


REQUESTS = st.builds(
    lambda rows, sequence, start, end, name: request(
        np.arange(2 * rows).reshape(rows, 2), sequence, start=start, end=end, id=name
    ).SerializeToString(),
    st.integers(1, 7),
    st.one_of(st.integers(0, 3), st.sampled_from(["", "a", "b"])),
    *(st.sampled_from([False, False, False, True]),) * 2,
    st.sampled_from(["", "", "1", "2"]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(REQUESTS, min_size=1, max_size=3), st.data())
async def test_what_is_recognised_says_what_is_parsed(
    catalog: Catalog, requests: list[bytes], data: st.DataObject
) -> None:
    decoder = codec(catalog)
    for _ in range(data.draw(st.integers(1, 8))):
        message = bytearray(data.draw(st.sampled_from(requests)))
        for _ in range(data.draw(st.sampled_from([0, 0, 1, 8]))):
            # Mostly of the numbers, which are the message's end.
            place = data.draw(st.one_of(st.integers(1, 8), st.integers(1, len(message))))
            message[-place] = data.draw(st.integers(0, 255))
        assert said(decoder, bytes(message)) == said(codec(catalog), bytes(message))


async def test_requests_that_go_on_with_a_sequence_are_recognised(catalog: Catalog) -> None:
    decoder = codec(catalog)
    first, *others = (asked_by(decoder, request([[k, k]], "a", id="same").SerializeToString()) for k in range(3))
    assert others[0][0] is others[1][0]
    assert [np.frombuffer(each[0], "<f4").tolist() for _, each in (first, *others)] == [[0, 0], [1, 1], [2, 2]]
    # They share the bytes that the first is counted for.
    assert first[0].weight > len("same")
    assert others[0][0].weight == 0


@pytest.mark.parametrize("fields", [{"start": True}, {"end": True}, {"sequence": None}, {"sequence": 0}])
async def test_others_are_not(catalog: Catalog, fields: dict[str, Any]) -> None:
    decoder = codec(catalog)
    message = request([[1, 1]], **{"sequence": 5, **fields}).SerializeToString()
    some = [asked_by(decoder, message) for _ in range(3)]
    assert len({id(each) for each, _ in some}) == 3


async def test_a_sequence_that_has_ended_is_not_recognised(catalog: Catalog) -> None:
    decoder = codec(catalog)
    message = request([[1, 1]], 5).SerializeToString()
    known = [asked_by(decoder, message)[0] for _ in range(3)]
    assert known[1] is known[2]
    await catalog.find("").lifecycle.named.close(TENANT, sequence_session(5))
    assert asked_by(decoder, message)[0] is not known[1]
    begin(catalog, 5)
    again = [asked_by(decoder, message)[0] for _ in range(2)]
    assert again[0] is again[1]


async def test_what_is_wrong_has_the_id_of_its_request(catalog: Catalog) -> None:
    decoder = codec(catalog)
    invalid = decoder.decode(request([[1, 1]] * 7, id="mine").SerializeToString())
    assert isinstance(invalid, Invalid)
    assert (invalid.id, "at most 6" in str(invalid.error)) == ("mine", True)
    answer = oip.ModelStreamInferResponse.FromString(decoder.error("mine", OutOfStep("why", position=7)))
    assert (answer.error_message, answer.infer_response.id) == ("why", "mine")
    assert answer.infer_response.parameters["gatestream_reason"].string_param == "REASON_POSITION_MISMATCH"
    assert answer.infer_response.parameters["gatestream_position"].int64_param == 7
    other = oip.ModelStreamInferResponse.FromString(decoder.error("", InvalidRequest("why")))
    assert set(other.infer_response.parameters) == {"triton_final_response", "gatestream_reason"}
    with pytest.raises(InvalidRequest, match="what came is not a ModelInferRequest"):
        decoder.decode(b"\x0a\x05")


@pytest.mark.parametrize("streamed", [False, True])
async def test_answers_are_what_protobuf_reads(tmp_path: Path, streamed: bool) -> None:
    cell = Lstm.random(features=3, hidden=4)
    path = cell.save(tmp_path / "lstm.onnx")
    async with serving_here(path, limits=LIMITS) as catalog:
        (model,) = catalog
        shown = [*model.layout.outputs, *model.layout.gates]
        columns = [bytes([k]) * (3 * item.row_bytes) for k, item in enumerate(shown)]
        asked = oip.ModelInferRequest(model_name="lstm", id="mine")
        asked.inputs.add(name="x", datatype="FP32", shape=[1, 3, 3])
        asked.raw_input_contents.append(bytes(36))
        # In another order than the model's.
        asked.outputs.extend(oip.ModelInferRequest.InferRequestedOutputTensor(name=item.name) for item in shown[::-1])
        decoder = InferenceCodec(catalog, LIMITS, TENANT, streamed=streamed)
        known = asked_by(decoder, asked.SerializeToString())[0]
        cut = [len(column) // 3 for column in columns]
        parts = [
            [column[:at] for column, at in zip(columns, cut, strict=True)],
            [column[at:] for column, at in zip(columns, cut, strict=True)],
        ]
        for data in (known.answer(columns), bytes(known.answer_of(parts))):
            if streamed:
                message = oip.ModelStreamInferResponse.FromString(data).infer_response
            else:
                message = oip.ModelInferResponse.FromString(data)
            assert (message.model_name, message.id) == ("lstm", "mine")
            assert [item.name for item in message.outputs] == [item.name for item in shown[::-1]]
            assert [list(item.shape) for item in message.outputs] == [[1, 3, *item.shape] for item in shown[::-1]]
            assert list(message.raw_output_contents) == columns[::-1]
            assert ("triton_final_response" in message.parameters) == streamed

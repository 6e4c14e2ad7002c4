"""The second door: the Open Inference Protocol, on a real server, its numbers against the sums that they should be."""

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.inference import open_inference_grpc_pb2_grpc as oip_grpc
from tests.support.artifacts import POISON, accumulator
from tests.support.open_inference import request, sums
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, stub


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    path: Path = accumulator(tmp_path_factory.mktemp("oip") / "accumulator.onnx")
    with serving(path, chunk_length=1000) as running:
        yield running


@pytest.fixture
def door(server: ServerProcess) -> Iterator[oip_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield oip_grpc.GRPCInferenceServiceStub(channel)


def test_health_and_metadata(door: oip_grpc.GRPCInferenceServiceStub) -> None:
    assert door.ServerLive(oip.ServerLiveRequest()).live
    assert door.ServerReady(oip.ServerReadyRequest()).ready
    assert door.ModelReady(oip.ModelReadyRequest(name="accumulator")).ready
    assert not door.ModelReady(oip.ModelReadyRequest(name="other")).ready
    assert door.ServerMetadata(oip.ServerMetadataRequest()).name == "gatestream"
    model = door.ModelMetadata(oip.ModelMetadataRequest(name="accumulator"))
    assert [(item.name, item.datatype, list(item.shape)) for item in model.inputs] == [("x", "FP32", [1, -1, 2])]
    assert [(item.name, item.datatype, list(item.shape)) for item in model.outputs] == [("y", "FP32", [1, -1, 2])]


def test_a_sequence_carries_its_state_from_call_to_call(door: oip_grpc.GRPCInferenceServiceStub) -> None:
    first = door.ModelInfer(request([[1, 2]], 7, start=True, id="a"), timeout=PATIENCE)
    assert (first.id, first.model_name, sums(first)) == ("a", "accumulator", [[1, 2]])
    assert list(first.outputs[0].shape) == [1, 1, 2]
    assert sums(door.ModelInfer(request([[10, 20], [1, 1]], 7), timeout=PATIENCE)) == [[11, 22], [12, 23]]
    assert sums(door.ModelInfer(request([[5, 5]], 8, start=True), timeout=PATIENCE)) == [[5, 5]]
    assert sums(door.ModelInfer(request([[1, 1]], 7, start=True), timeout=PATIENCE)) == [[1, 1]], "it starts again"
    assert sums(door.ModelInfer(request([[1, 1]], 7, end=True), timeout=PATIENCE)) == [[2, 2]]
    with pytest.raises(
        grpc.RpcError, match="sequence_id 7 is not here; the first request of a sequence sets sequence_start"
    ):
        door.ModelInfer(request([[1, 1]], 7), timeout=PATIENCE)


def test_a_request_without_a_sequence_leaves_nothing_behind(
    server: ServerProcess, door: oip_grpc.GRPCInferenceServiceStub
) -> None:
    for _ in range(3):
        assert sums(door.ModelInfer(request([[3, 4], [1, 1]]), timeout=PATIENCE)) == [[3, 4], [4, 5]]
    with stub(server.address) as native:
        listed = native.ListSessions(pb.ListSessionsRequest(), timeout=PATIENCE).sessions
    assert [session.session_id for session in listed if not session.session_id.startswith("sequence:")] == []


def test_many_sequences_on_one_stream_keep_apart(door: oip_grpc.GRPCInferenceServiceStub) -> None:
    rng = np.random.default_rng(0)
    asked: dict[str, list[list[float]]] = {}
    totals = {name: np.zeros(2) for name in ("a", "b", "c")}
    sent: list[tuple[oip.ModelInferRequest, str]] = []
    for number in range(300):
        name = str(rng.choice(list(totals)))
        x = rng.integers(-9, 9, (int(rng.integers(1, 70)), 2)).astype(np.float32)
        first = not any(parameters == name for _, parameters in sent)
        sent.append((request(x, name, start=first, id=str(number)), name))
        asked[str(number)] = (totals[name] + np.cumsum(x, axis=0)).tolist()
        totals[name] = totals[name] + x.sum(axis=0)
    answers = list(door.ModelStreamInfer(iter([message for message, _ in sent]), timeout=PATIENCE))
    assert not any(answer.error_message for answer in answers)
    assert {answer.infer_response.id: sums(answer.infer_response) for answer in answers} == asked
    for name in totals:
        door.ModelInfer(request([[0, 0]], name, end=True), timeout=PATIENCE)


def test_numbers_may_come_in_the_message_itself(door: oip_grpc.GRPCInferenceServiceStub) -> None:
    built = oip.ModelInferRequest(model_name="accumulator")
    tensor = built.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    tensor.contents.fp32_contents.extend([3, 4])
    assert sums(door.ModelInfer(built, timeout=PATIENCE)) == [[3, 4]]


X = oip.ModelInferRequest.InferInputTensor


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inputs": [X(name="z", datatype="FP32", shape=[1, 1, 2])]}, r"inputs are \['z'\]; expected \['x'\]"),
        ({"inputs": [X(name="x", datatype="FP64", shape=[1, 1, 2])]}, "is 'FP64'; expected 'FP32'"),
        ({"inputs": [X(name="x", datatype="FP32", shape=[2, 1, 2])]}, r"has the shape \[2, 1, 2\]; expected \[1, time"),
        ({"inputs": [X(name="x", datatype="FP32", shape=[1, 1, 3])]}, r"has the shape \[1, 1, 3\]"),
        ({"inputs": [X(name="x", datatype="FP32", shape=[1, 0, 2])]}, r"has the shape \[1, 0, 2\]"),
        ({"inputs": [X(name="x", datatype="FP32", shape=[])]}, r"has the shape \[\]"),
        ({"inputs": [X(name="x", datatype="FP32", shape=[1, 2, 2])]}, "has 8 bytes; its shape says 16"),
        ({"inputs": [X(name="x", datatype="FP32", shape=[1, 2000, 2])], "raw_input_contents": [b"0" * 16000]}, "2000"),
        ({"raw_input_contents": [b"", b""]}, "raw_input_contents has 2 elements for 1 inputs"),
        (
            {"outputs": [oip.ModelInferRequest.InferRequestedOutputTensor(name="q")]},
            "outputs names 'q'; this model has",
        ),
        ({"model_version": "9"}, "is here in version '1', not '9'"),
    ],
)
def test_what_is_wrong_is_named_on_either_call(
    door: oip_grpc.GRPCInferenceServiceStub, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(grpc.RpcError, match=message):
        door.ModelInfer(request([[1, 1]], **fields), timeout=PATIENCE)
    wrong, right = request([[1, 1]], id="wrong", **fields), request([[1, 1]], id="right")
    answers = {a.infer_response.id: a for a in door.ModelStreamInfer(iter([wrong, right]), timeout=PATIENCE)}
    assert answers.keys() == {"wrong", "right"}
    assert sums(answers["right"].infer_response) == [[1, 1]]
    assert answers["wrong"].error_message


@pytest.mark.parametrize("size", [1024, 1025, 60_000])
def test_an_id_is_bounded_since_the_answer_repeats_it(door: oip_grpc.GRPCInferenceServiceStub, size: int) -> None:
    answer, right = door.ModelStreamInfer(iter([request([[1, 1]], id="n" * size), request([[1, 1]])]), timeout=PATIENCE)
    if size > 1024:
        assert answer.error_message == f"id has {size} bytes; expected at most 1024"
    assert answer.infer_response.id == "n" * min(size, 1024)
    assert sums(right.infer_response) == [[1, 1]]


def test_a_request_that_fails_leaves_the_sequence_as_it_was(door: oip_grpc.GRPCInferenceServiceStub) -> None:
    door.ModelInfer(request([[1, 1]], "frail", start=True), timeout=PATIENCE)
    with pytest.raises(grpc.RpcError, match="the model failed on these steps"):
        door.ModelInfer(request([[POISON, 1]], "frail"), timeout=PATIENCE)
    with pytest.raises(grpc.RpcError, match="NaN or infinity at step 0"):
        door.ModelInfer(request([[np.nan, 1]], "frail"), timeout=PATIENCE)
    assert sums(door.ModelInfer(request([[1, 1]], "frail", end=True), timeout=PATIENCE)) == [[2, 2]]


def test_a_sequence_that_others_end_is_not_taken_for_the_one_in_its_place(
    door: oip_grpc.GRPCInferenceServiceStub,
) -> None:
    """The stream knows its requests again by their first bytes, and where their sequence was."""
    requests: queue.SimpleQueue[oip.ModelInferRequest | None] = queue.SimpleQueue()
    answers = door.ModelStreamInfer(iter(requests.get, None), timeout=PATIENCE)

    def asked(sent: oip.ModelInferRequest) -> oip.ModelStreamInferResponse:
        requests.put(sent)
        return next(answers)

    asked(request([[1, 2]], 5, start=True))
    for k in range(2, 6):
        assert sums(asked(request([[1, 2]], 5)).infer_response) == [[k, 2 * k]]
    door.ModelInfer(request([[0, 0]], 5, end=True), timeout=PATIENCE)
    # It has the state row that the other one had.
    door.ModelInfer(request([[100, 100]], 6, start=True), timeout=PATIENCE)
    assert "5" in asked(request([[1, 2]], 5)).error_message
    assert sums(door.ModelInfer(request([[1, 1]], 6), timeout=PATIENCE)) == [[101, 101]]
    door.ModelInfer(request([[7, 7]], 5, start=True), timeout=PATIENCE)
    for k in range(1, 4):
        assert sums(asked(request([[1, 2]], 5)).infer_response) == [[7 + k, 7 + 2 * k]]
    for sequence in (5, 6):
        door.ModelInfer(request([[0, 0]], sequence, end=True), timeout=PATIENCE)
    requests.put(None)
    assert list(answers) == []


def test_a_stream_that_breaks_leaves_its_sequences_to_the_next(door: oip_grpc.GRPCInferenceServiceStub) -> None:
    call = door.ModelStreamInfer(iter([request([[1, 1]], "lasting", start=True)]), timeout=PATIENCE)
    assert sums(next(iter(call)).infer_response) == [[1, 1]]
    call.cancel()
    assert sums(door.ModelInfer(request([[1, 1]], "lasting", end=True), timeout=PATIENCE)) == [[2, 2]]

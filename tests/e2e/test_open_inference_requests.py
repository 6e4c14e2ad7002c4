"""What a request of the Open Inference Protocol may ask for: its outputs, parameters, sequence ids and sizes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.inference import open_inference_grpc_pb2_grpc as oip_grpc
from tests.support.lstm import Lstm
from tests.support.open_inference import request, sums
from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, channel, stub

Stub = oip_grpc.GRPCInferenceServiceStub
Output = oip.ModelInferRequest.InferRequestedOutputTensor
Input = oip.ModelInferRequest.InferInputTensor


@pytest.fixture(scope="module")
def door(server: ServerProcess) -> Iterator[Stub]:
    with channel(server.address) as opened:
        yield Stub(opened)


def refused(door: Stub, wrong: oip.ModelInferRequest, *says: str) -> None:
    """By either call, and the stream goes on."""
    with pytest.raises(grpc.RpcError) as caught:
        door.ModelInfer(wrong, timeout=PATIENCE)
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    for part in says:
        assert part in error.details()
    assert len(error.details()) < 600
    right = request([[1, 1]], id="right")
    answers = list(door.ModelStreamInfer(iter([wrong, right]), timeout=PATIENCE))
    assert answers[0].error_message == error.details()
    assert not answers[0].infer_response.raw_output_contents
    assert sums(answers[1].infer_response) == [[1, 1]]


# ---- Outputs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [2, 500, 100_000])
def test_an_output_named_more_than_once_is_refused_before_anything_is_computed(door: Stub, times: int) -> None:
    """100,000 times, for 1,000 steps, would be an answer of gigabytes."""
    door.ModelInfer(request([[1, 1]], "twice", start=True), timeout=PATIENCE)
    wrong = request(np.ones((1000, 2)), "twice", outputs=[Output(name="y")] * times)
    refused(door, wrong)
    assert sums(door.ModelInfer(request([[1, 1]], "twice", end=True), timeout=PATIENCE)) == [[2, 2]]


def test_the_outputs_that_are_asked_for_come_in_the_order_asked(tmp_path: Path) -> None:
    lstm = Lstm.random()
    x = np.random.default_rng(0).normal(0, 1, (5, lstm.features)).astype(np.float32)
    y, gates = lstm.run(x)
    with serving(lstm.save(tmp_path / "lstm.onnx")) as server, channel(server.address) as opened:
        door = Stub(opened)
        assert [item.name for item in door.ModelMetadata(oip.ModelMetadataRequest()).outputs] == ["y"]
        asked = oip.ModelInferRequest(
            inputs=[Input(name="x", datatype="FP32", shape=[1, *x.shape])], raw_input_contents=[x.tobytes()]
        )
        answer = door.ModelInfer(asked, timeout=PATIENCE)
        assert [item.name for item in answer.outputs] == ["y"], "as the metadata says"
        names = ["o", "y", "i", "f", "g"]
        asked.outputs.extend(Output(name=name) for name in names)
        streamed = next(iter(door.ModelStreamInfer(iter([asked]), timeout=PATIENCE))).infer_response
        for answer in (door.ModelInfer(asked, timeout=PATIENCE), streamed):
            assert [item.name for item in answer.outputs] == names
            for item, column in zip(answer.outputs, answer.raw_output_contents, strict=True):
                expected = y if item.name == "y" else gates[item.name]
                got = np.frombuffer(column, np.float32).reshape(item.shape).reshape(expected.shape)
                np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("classification", {"int64_param": 3}),
        ("shared_memory_region", {"string_param": "mine"}),
        ("shared_memory_byte_size", {"int64_param": 8}),
    ],
)
def test_what_is_asked_for_and_not_done_is_refused_by_name(door: Stub, parameter: str, value: dict[str, Any]) -> None:
    parameters = {parameter: oip.InferParameter(**value)}
    refused(door, request([[1, 1]], outputs=[Output(name="y", parameters=parameters)]), "output 'y'", parameter)
    if parameter != "classification":
        inputs = [Input(name="x", datatype="FP32", shape=[1, 1, 2], parameters=parameters)]
        refused(door, request([[1, 1]], inputs=inputs), "input 'x'", parameter)


# ---- Parameters -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("sequence_start", {"int64_param": 1}, "parameter sequence_start is 1 (int64_param); expected bool_param"),
        ("sequence_start", {"string_param": "true"}, "parameter sequence_start is 'true' (string_param); expected"),
        ("sequence_end", {"double_param": 1.0}, "parameter sequence_end is 1.0 (double_param); expected"),
        ("sequence_end", {}, "parameter sequence_end is empty; expected bool_param"),
        (
            "sequence_id",
            {"bool_param": True},
            "parameter sequence_id is True (bool_param); expected int64_param or uint64_param or string_param",
        ),
        (
            "sequence_id",
            {"double_param": 5.0},
            "parameter sequence_id is 5.0 (double_param); expected int64_param or uint64_param or string_param",
        ),
        (
            "priority",
            {"string_param": "high"},
            "parameter priority is 'high' (string_param); expected int64_param or uint64_param",
        ),
        (
            "timeout",
            {"double_param": 0.5},
            "parameter timeout is 0.5 (double_param); expected int64_param or uint64_param",
        ),
        (
            "triton_enable_empty_final_response",
            {"int64_param": 1},
            "parameter triton_enable_empty_final_response is 1 (int64_param); expected bool_param",
        ),
        ("triton_other", {"bool_param": True}, "parameter 'triton_other' is not known; of triton_* there is"),
        (
            "gatestream_first",
            {"string_param": "3"},
            "parameter gatestream_first is '3' (string_param); expected int64_param",
        ),
        (
            "gatestream_first",
            {"uint64_param": 2**63},
            "parameter gatestream_first is 9223372036854775808 (uint64_param); expected int64_param",
        ),
        ("gatestream_first", {}, "parameter gatestream_first is empty; expected int64_param"),
        ("gatestream_first", {"int64_param": -1}, "parameter gatestream_first is -1; expected 0 or more"),
        (
            "gatestream_frist",
            {"int64_param": 0},
            "parameter 'gatestream_frist' is not known; of gatestream_* there is: ['gatestream_first']",
        ),
    ],
)
def test_a_known_parameter_of_another_type_is_refused_by_name(
    door: Stub, name: str, value: dict[str, Any], says: str
) -> None:
    wrong = request([[1, 1]], "typed", start=True)
    wrong.parameters[name].CopyFrom(oip.InferParameter(**value))
    refused(door, wrong, says)


def test_parameters_that_change_nothing_are_taken(door: Stub) -> None:
    asked = request([[1, 1]])
    asked.parameters["priority"].uint64_param = 2
    asked.parameters["timeout"].int64_param = 1
    asked.parameters["triton_enable_empty_final_response"].bool_param = True
    asked.parameters["of_the_model"].double_param = 0.5
    assert sums(door.ModelInfer(asked, timeout=PATIENCE)) == [[1, 1]]


@pytest.mark.parametrize("none", [None, 0, ""])
@pytest.mark.parametrize("flag", ["sequence_start", "sequence_end"])
def test_a_sequence_that_starts_or_ends_has_an_id(door: Stub, none: int | str | None, flag: str) -> None:
    wrong = request([[1, 1]], none)
    wrong.parameters[flag].bool_param = True
    refused(door, wrong, f"parameter {flag} is true without a sequence_id")


# ---- Sequence ids -----------------------------------------------------------------------------

IDS: list[int | str] = [
    *(
        5,
        "5",
        -5,
        "-5",
        "0",
        2**63 - 1,
        -(2**63),
        "a b",
        "user@host/1",
        "s:5",
        "ä€😀",
        "%",
        "%20",
        "\0",
        "~",
        "x" * 128,
    ),
    "€" * 42,
]


def test_every_sequence_id_is_a_sequence_of_its_own(server: ServerProcess, door: Stub) -> None:
    for k, name in enumerate(IDS):
        assert sums(door.ModelInfer(request([[k, 0]], name, start=True), timeout=PATIENCE)) == [[k, 0]]
    for k, name in enumerate(IDS):
        assert sums(door.ModelInfer(request([[0, 1]], name), timeout=PATIENCE)) == [[k, 1]]
    with stub(server.address) as native:
        sessions = native.ListSessions(pb.ListSessionsRequest(page_size=1000), timeout=PATIENCE).sessions
        listed = {item.session_id for item in sessions}
        assert {"sequence:5", "sequence:s:5", "sequence:-5", "sequence:s:0", "sequence:s:a%20b"} <= listed
        assert {"sequence:s:user%40host%2F1", "sequence:s:%7E", "sequence:s:%00", "sequence:s:%25"} <= listed
        assert "sequence:s:" + "x" * 128 in listed
        assert "sequence:s:" + "%E2%82%AC" * 42 in listed
        # Calls that name a session take ids that long.
        for session_id in sorted(item for item in listed if item.startswith("sequence:")):
            state = native.GetState(pb.GetStateRequest(session_id=session_id), timeout=PATIENCE)
            assert state.position == 2
            native.CloseSession(pb.CloseSessionRequest(session_id=session_id), timeout=PATIENCE)
    for name in IDS:
        with pytest.raises(grpc.RpcError, match=r"sequence_id .* is not here"):
            door.ModelInfer(request([[1, 1]], name), timeout=PATIENCE)


def test_a_number_is_one_sequence_whatever_its_type(door: Stub) -> None:
    door.ModelInfer(request([[1, 1]], 7, start=True), timeout=PATIENCE)
    unsigned = request([[1, 1]], 7, end=True)
    unsigned.parameters["sequence_id"].uint64_param = 7
    assert sums(door.ModelInfer(unsigned, timeout=PATIENCE)) == [[2, 2]]
    for number in (2**63, 2**64 - 1):
        unsigned.parameters["sequence_id"].uint64_param = number
        unsigned.parameters["sequence_start"].bool_param = True
        assert sums(door.ModelInfer(unsigned, timeout=PATIENCE)) == [[1, 1]]


def test_an_error_speaks_of_the_sequence_id(door: Stub) -> None:
    for name, shown in ((77, "sequence_id 77 is not here"), ("a b", "sequence_id 'a b' is not here")):
        with pytest.raises(grpc.RpcError) as caught:
            door.ModelInfer(request([[1, 1]], name), timeout=PATIENCE)
        error: Any = caught.value
        assert shown in error.details()
        assert "session" not in error.details()
    refused(door, request([[1, 1]], "x" * 129, start=True), "parameter sequence_id is 'xxxx", "129 bytes", "128")
    refused(door, request([[1, 1]], "€" * 43, start=True), "129 bytes; expected at most 128")


# ---- Sizes ------------------------------------------------------------------------------------

MIB = 2**20


def _delimited(number: int, contents: bytes) -> bytes:
    size, groups = len(contents), b""
    while size >= 0x80:
        groups, size = groups + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + groups + bytes([size]) + contents


def _shaped(shape: bytes, contents: bytes = b"") -> bytes:
    tensor = _delimited(1, b"x") + _delimited(2, b"FP32") + _delimited(3, shape)
    return _delimited(5, tensor + (_delimited(5, contents) if contents else b""))


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "inputs": lambda right: right + _delimited(5, b"") * 2_000_000,
    "outputs": lambda right: right + _delimited(6, _delimited(1, b"y")) * 800_000,
    "parameters": lambda right: right + _delimited(4, _delimited(1, b"a")) * 800_000,
    "raw contents": lambda right: right + _delimited(7, b"") * 2_000_000,
    "shape": lambda _: _shaped(b"\1" * 4 * MIB) + _delimited(7, bytes(8)),
    "typed contents": lambda _: _shaped(b"\1\1", _delimited(6, bytes(4 * MIB))),
    "typed contents of another type": lambda _: _shaped(b"\1\1", _delimited(1, b"\1" * 4 * MIB)),
    "bytes contents": lambda _: _shaped(b"\1\1", _delimited(8, b"") * 2_000_000),
    "id": lambda right: right + _delimited(3, b"x" * 4 * MIB),
    "model name": lambda right: right + _delimited(1, b"x" * 4 * MIB),
    "input name": lambda right: right + _delimited(5, _delimited(1, b"x" * 4 * MIB)),
    "unknown fields": lambda right: right + _delimited(15, b"") * 2_000_000,
    "unknown numbers": lambda right: right + b"\x78\x01" * 2_000_000,
    "groups": lambda right: right + b"\x7b\x7c" * 2_000_000,
    "nested groups": lambda right: right + b"\x7b" * 4_000_000,
    "raw of another size": lambda right: right.replace(bytes(8), b"") + _delimited(7, bytes(4 * MIB)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_large_request_that_is_refused_costs_little(server: ServerProcess, name: str) -> None:
    """CPU time of the whole server, with gRPC's for taking 4 MB off the wire twice."""
    right = request([[0, 0]], id="right").SerializeToString()
    wrong = HOSTILE[name](right)
    process = psutil.Process(server.popen.pid)
    with channel(server.address) as opened:
        call: Any = opened.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        single: Any = opened.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            single(wrong, timeout=PATIENCE)
        error: Any = caught.value
        assert (error.code(), len(error.details()) < 600) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        before = sum(process.cpu_times()[:2])
        answers = list(call(iter([right, wrong, right]), timeout=PATIENCE))
        spent = sum(process.cpu_times()[:2]) - before
    assert max(map(len, answers)) < 1000
    read = [oip.ModelStreamInferResponse.FromString(answer) for answer in answers]
    assert [bool(answer.error_message) for answer in read] == [False, True, False]
    assert spent < 0.25


def test_typed_contents_beyond_their_bound_are_sent_to_the_raw_ones(door: Stub) -> None:
    built = oip.ModelInferRequest(inputs=[Input(name="x", datatype="FP32", shape=[1, 1000, 2])])
    built.inputs[0].contents.fp32_contents.extend([1.0] * 2000)
    assert sums(door.ModelInfer(built, timeout=PATIENCE))[-1] == [1000, 1000]
    built.inputs[0].contents.fp32_contents.extend([1.0] * 16_000)
    refused(door, built, "send numbers in raw_input_contents")
    both = request([[1, 1]])
    both.inputs[0].contents.fp32_contents.extend([1, 1])
    refused(door, both, "input 'x' has contents beside raw_input_contents")


def test_raw_contents_are_found_wherever_they_stand_in_a_message(server: ServerProcess) -> None:
    """protobuf takes fields in any order, and the last of those that stand twice."""
    head = request([[0, 0]])
    head.ClearField("raw_input_contents")
    raw = _delimited(7, np.array([3, 4], np.float32).tobytes())
    name, rest = _delimited(1, b"accumulator"), head.SerializeToString()
    with channel(server.address) as opened:
        call: Any = opened.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for message in (
            rest + raw,
            raw + rest,
            name + raw + rest,
            _delimited(1, b"other") + raw + rest,
            rest + b"\x78\1" + raw,
        ):
            answer = call(message, timeout=PATIENCE)
            assert sums(oip.ModelInferResponse.FromString(answer)) == [[3, 4]]

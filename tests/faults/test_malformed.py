"""A message that is none ends its stream, behind the answers to what had been accepted before it."""

import contextlib
import struct
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from tests.support.process import ServerProcess
from tests.support.wire import PATIENCE, channel, steps, stub

pytestmark = pytest.mark.usefixtures("neighbour")

OWN, OPEN_INFERENCE = "/gatestream.v1.Gatestream/Stream", "/inference.GRPCInferenceService/ModelStreamInfer"
# A chunk that is in line for a while: the server takes one step in a run.
XS = np.ones((500, 2), np.float32)
GARBAGE = [b"\xff" * 20, b"\xff" * 10_000, b"\x12\xff", b"\x0a\x02\x08", b"\x12\x03\x22\x05a"]


class Ended:
    """How a call of bytes ended."""

    def __init__(self, server: ServerProcess, method: str, sent: list[bytes]):
        self.answers: list[bytes] = []
        with channel(server.address) as opened:
            of_bytes: grpc.StreamStreamMultiCallable[bytes, bytes] = opened.stream_stream(method)
            call = of_bytes(self._all(sent), timeout=PATIENCE)
            with contextlib.suppress(grpc.RpcError):
                self.answers += call
            self.code, self.details, self.trailing = call.code(), call.details(), dict(call.trailing_metadata())

    def _all(self, sent: list[bytes]) -> Iterator[bytes]:
        yield from sent


@pytest.mark.parametrize("garbage", GARBAGE)
def test_on_the_own_wire(server: ServerProcess, garbage: bytes) -> None:
    opening = pb.ClientMessage(open=pb.Open(handle=0, model="accumulator", session_id="behind"))
    ended = Ended(server, OWN, [opening.SerializeToString(), steps({0: XS}).SerializeToString(), garbage, b"\xff" * 20])
    assert ended.code == grpc.StatusCode.INVALID_ARGUMENT
    assert ended.details == f"what came is not a ClientMessage: its {len(garbage)} bytes cannot be parsed"
    assert ended.trailing["gatestream-reason"] == "REASON_MALFORMED"
    opened, *answers, closed = [pb.ServerMessage.FromString(answer) for answer in ended.answers]
    assert opened.opened.created
    assert b"".join(answer.results.output[0] for answer in answers) == np.cumsum(XS, axis=0).tobytes()
    assert closed.closed == pb.Closed(handle=[0], position=[500], reason=pb.CLOSE_REASON_REQUESTED)
    with stub(server.address) as calls:
        listed = calls.ListSessions(pb.ListSessionsRequest(page_size=1000), timeout=PATIENCE).sessions
    assert "behind" not in {item.session_id for item in listed}


@pytest.mark.parametrize("garbage", GARBAGE[:2])
def test_by_the_open_inference_protocol(server: ServerProcess, garbage: bytes) -> None:
    requests = []
    for k in range(3):
        request = oip.ModelInferRequest(model_name="accumulator", id=str(k), raw_input_contents=[XS.tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=[1, *XS.shape])
        requests.append(request.SerializeToString())
    ended = Ended(server, OPEN_INFERENCE, [*requests, garbage])
    assert ended.code == grpc.StatusCode.INVALID_ARGUMENT
    assert ended.details == f"what came is not a ModelInferRequest: its {len(garbage)} bytes cannot be parsed"
    answers = [oip.ModelStreamInferResponse.FromString(answer).infer_response for answer in ended.answers]
    assert {answer.id for answer in answers} == {"0", "1", "2"}
    assert {answer.raw_output_contents[0] for answer in answers} == {np.cumsum(XS, axis=0).tobytes()}


def test_where_nothing_had_been_accepted(server: ServerProcess) -> None:
    for method in (OWN, OPEN_INFERENCE):
        ended = Ended(server, method, [struct.pack(">I", 2**32 - 1)])
        assert (ended.code, ended.answers) == (grpc.StatusCode.INVALID_ARGUMENT, [])

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.core.reply_sink import CloseReason


def test_sessions_close_for_the_wires_reasons() -> None:
    named = [f"CLOSE_REASON_{reason.name}" for reason in CloseReason]
    assert named == [reason.value for reason in CloseReason] == pb.CloseReason.keys()[1:]

"""Every method that the server has, as a client with nothing but bytes would call it."""

from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from tests.support.wire import PATIENCE

REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


def _methods() -> Iterable[tuple[str, Any]]:
    for file in (pb.DESCRIPTOR, oip.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        for service in file.services_by_name.values():
            for method in service.methods:
                name = f"/{service.full_name}/{method.name}"
                if name == "/grpc.health.v1.Health/List":
                    continue  # Not implemented by grpcio-health-checking for asyncio.
                yield name, method
                if "v1alpha" in name:
                    yield name.replace("v1alpha", "v1"), method


METHODS: dict[str, Any] = dict(_methods())
"""By path: their descriptors."""
UNARY = [name for name, method in METHODS.items() if not method.client_streaming and not method.server_streaming]
"""The paths of those that have one request and one answer."""


def called(
    channel: grpc.Channel, name: str, message: bytes, compression: grpc.Compression | None = None, token: str = ""
) -> tuple[grpc.StatusCode, str, list[bytes]]:
    """Call a method with one message: how it ended, and its answers."""
    # On the wire the kinds of method are the same.
    method: Any = channel.stream_stream(name)
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    call = method(iter([message]), timeout=PATIENCE, compression=compression, metadata=metadata)
    answers: list[bytes] = []
    try:
        for answer in call:
            answers.append(answer)
            if METHODS.get(name) is not None and name.endswith("/Watch"):
                call.cancel()
    except grpc.RpcError:
        pass
    return call.code(), call.details() or "", answers

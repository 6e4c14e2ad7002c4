"""Server reflection, in both versions, as tools that know no proto beforehand use it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2 as reflection

from tests.support.process import ServerProcess, serving
from tests.support.wire import PATIENCE, channel

SERVICES = [
    "gatestream.v1.Gatestream",
    "gatestream.v1.ModelControl",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "inference.GRPCInferenceService",
]


@pytest.fixture(scope="module")
def server(accumulator_path: Path) -> Iterator[ServerProcess]:
    with serving(accumulator_path) as running:
        yield running


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_every_service_can_be_found_and_described(server: ServerProcess, version: str) -> None:
    with channel(server.address) as opened:
        method: Any = opened.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            reflection.ServerReflectionRequest.SerializeToString,
            reflection.ServerReflectionResponse.FromString,
        )
        requests = [reflection.ServerReflectionRequest(file_containing_symbol=name) for name in [*SERVICES, "no.Such"]]
        listing, *described, missing = method(
            iter([reflection.ServerReflectionRequest(list_services=""), *requests]), timeout=PATIENCE
        )
    assert [item.name for item in listing.list_services_response.service] == SERVICES
    for name, answer in zip(SERVICES, described, strict=True):
        pool = DescriptorPool()
        for file in reversed(answer.file_descriptor_response.file_descriptor_proto):
            pool.Add(FileDescriptorProto.FromString(file))
        assert pool.FindServiceByName(name).methods
    assert missing.error_response.error_code == 5

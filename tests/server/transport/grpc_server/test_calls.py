"""What gRPC is told of the services: every method of the .proto, and what each takes."""

from typing import Any, get_type_hints

import pytest

from gatestream.server.config import Limits
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.catalog import Models
from gatestream.server.transport import native_calls, oip_calls
from gatestream.server.transport.auth import Tenants
from gatestream.server.transport.connection import Streams
from gatestream.server.transport.grpc_server.calls import Calls
from gatestream.server.transport.grpc_server.definition import ServiceDefinition
from gatestream.server.transport.grpc_server.health import Health
from gatestream.server.transport.grpc_server.reflection import reflection

MODELS = Models([], Accounts(Limits(), models=1))
STREAMED = (True, True)


def service(name: str) -> ServiceDefinition:
    streams = Streams(MODELS, Limits(), Tenants(None))
    both = [
        native_calls.Service(MODELS, Limits(), streams).definition(),
        oip_calls.OpenInferenceService(MODELS, Limits(), streams).definition(),
        Health().definition(),
    ]
    found = {item.descriptor.name: item for item in [*both, reflection(both)]}
    return found[name]


def handlers(definition: ServiceDefinition) -> dict[str, dict[str, Any]]:
    return Calls(Tenants(None), 8, 8, most_lasting=8).handlers([definition])


@pytest.mark.parametrize("name", ["Gatestream", "GRPCInferenceService"])
def test_every_method_of_a_proto_is_done(name: str) -> None:
    definition = service(name)
    (methods,) = handlers(definition).values()
    kinds = {
        method.name: (method.client_streaming, method.server_streaming) for method in definition.descriptor.methods
    }
    assert {method: (h.request_streaming, h.response_streaming) for method, h in methods.items()} == kinds
    assert all(handler.request_deserializer is None for handler in methods.values()), "gRPC hands bytes over"


@pytest.mark.parametrize("name", ["Gatestream", "GRPCInferenceService"])
def test_a_method_takes_and_gives_the_messages_of_its_proto(name: str) -> None:
    definition = service(name)
    for method in definition.descriptor.methods:
        if method.name in definition.streams or method.name in definition.unparsed:
            continue
        hints = get_type_hints(getattr(definition.servicer, method.name))
        described = hints["request"].DESCRIPTOR, hints["return"].DESCRIPTOR
        assert described == (method.input_type, method.output_type), method.name


def test_reflection_answers_by_both_of_its_names() -> None:
    found = handlers(service("ServerReflection"))
    assert list(found) == ["grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection"]
    assert all(list(methods) == ["ServerReflectionInfo"] for methods in found.values())


def test_of_health_only_what_grpcs_own_servicer_does() -> None:
    assert list(handlers(service("Health"))["grpc.health.v1.Health"]) == ["Check", "Watch"]

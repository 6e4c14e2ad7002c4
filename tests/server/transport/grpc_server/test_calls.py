"""What gRPC is told of the services, and what becomes of a call before any message of it is received."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.server.config import Limits, ServerConfig
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.catalog import Catalog
from gatestream.server.loader import Loader
from gatestream.server.repository.repository import Repository
from gatestream.server.telemetry import ServerStats
from gatestream.server.transport import model_calls, native_calls, oip_calls
from gatestream.server.transport.auth import CALLER, Tenants
from gatestream.server.transport.connection import Streams
from gatestream.server.transport.grpc_server.calls import Calls
from gatestream.server.transport.grpc_server.definition import ServiceDefinition
from gatestream.server.transport.grpc_server.health import Health
from gatestream.server.transport.grpc_server.reflection import reflection
from gatestream.server.transport.model_calls import GuardedControl

MODELS = Catalog(Accounts(Limits()))
CONFIG = ServerConfig(artifacts=(Path("none.onnx"),))
CONTROL = GuardedControl(
    Repository(CONFIG, MODELS, Loader(MODELS, CONFIG, asyncio.ensure_future), None, asyncio.ensure_future), allowed=True
)


def service(name: str) -> ServiceDefinition:
    streams = Streams(MODELS, Limits(), Tenants(None))
    offered = [
        native_calls.Service(MODELS, CONFIG, streams).definition(),
        model_calls.ModelControlService(CONTROL).definition(),
        oip_calls.OpenInferenceService(MODELS, Limits(), streams, CONTROL).definition(),
        Health().definition(),
    ]
    found = {item.descriptor.name: item for item in [*offered, reflection(offered)]}
    return found[name]


def handlers(definition: ServiceDefinition) -> dict[str, dict[str, Any]]:
    return Calls(Tenants(None), 8, 8, 8, ServerStats()).handlers([definition])


@pytest.mark.parametrize("name", ["Gatestream", "ModelControl", "GRPCInferenceService"])
def test_every_method_of_a_proto_is_done(name: str) -> None:
    definition = service(name)
    (methods,) = handlers(definition).values()
    kinds = {
        method.name: (method.client_streaming, method.server_streaming) for method in definition.descriptor.methods
    }
    assert {method: (h.request_streaming, h.response_streaming) for method, h in methods.items()} == kinds
    assert all(handler.request_deserializer is None for handler in methods.values()), "gRPC hands bytes over"


@pytest.mark.parametrize("name", ["Gatestream", "ModelControl", "GRPCInferenceService"])
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


@dataclass
class Details:
    """What gRPC knows of a call by its metadata."""

    method: str
    invocation_metadata: tuple[tuple[str, str], ...] = ()


@dataclass
class Context:
    """A call's end."""

    ended: list[tuple[Any, ...]] = field(default_factory=list)
    written: list[bytes] = field(default_factory=list)

    async def abort(self, *how: Any) -> None:
        self.ended.append(how)

    async def write(self, answer: Any) -> None:
        self.written.append(answer.SerializeToString())


class Bench:
    """The calls of a server of the Open Inference Protocol.

    Args:
        tokens: as `Tenants` has them.
        most: unary calls.
    """

    def __init__(self, tokens: Path | None = None, most: int = 2):
        self.calls = Calls(Tenants(tokens), most, most, 1, ServerStats())
        (self.methods,) = self.calls.handlers([service("GRPCInferenceService")]).values()

    async def asked(self, method: str, token: str = "") -> Any:
        """The handler that a call gets."""

        async def continuation(details: Details) -> Any:
            return self.methods.get(details.method.rpartition("/")[2])

        shown = (("authorization", f"Bearer {token}"),) if token else ()
        details = Details(f"/inference.GRPCInferenceService/{method}", shown)
        return await self.calls.intercept_service(continuation, details)


async def refused(handler: Any) -> tuple[str, str]:
    """How a handler that receives nothing ends its call."""
    context = Context()
    # What it would receive is not there to be asked for.
    await handler.stream_stream(None, context)
    ((status, text, _),) = context.ended
    return status.name, text


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.toml"
    path.write_text('"token-of-acme-0123456789" = "acme"\n')
    path.chmod(0o600)
    return path


async def test_a_method_that_is_not_there_is_left_to_grpc() -> None:
    assert await Bench().asked("Nothing") is None


async def test_without_a_token_nothing_is_received(tokens: Path) -> None:
    bench = Bench(tokens)
    for method in ("ModelMetadata", "ModelInfer", "ModelStreamInfer"):
        handler = await bench.asked(method)
        assert handler is not bench.methods[method]
        code, text = await refused(handler)
        assert (code, text.partition(";")[0]) == ("UNAUTHENTICATED", "the call carries no token")
    assert await refused(await bench.asked("ModelInfer", "token-of-nobody-0123456789")) == (
        "UNAUTHENTICATED",
        "the bearer token is not known to this server",
    )
    assert bench.calls.unanswered == 0
    called = asyncio.create_task(bench.asked("ModelInfer", "token-of-acme-0123456789"))
    assert await called is bench.methods["ModelInfer"]


async def test_whether_it_lives_is_answered_without_a_token_and_without_receiving(tokens: Path) -> None:
    bench, context = Bench(tokens), Context()
    handler = await bench.asked("ServerLive")
    await handler.stream_stream(None, context)
    answer = oip.ServerLiveResponse.FromString(context.written[0])
    assert (answer.live, context.ended) == (True, [])


async def test_unary_calls_over_the_bound_are_refused_until_one_has_ended() -> None:
    bench, end = Bench(most=2), asyncio.Event()

    async def call() -> Any:
        handler = await bench.asked("ModelMetadata")
        await end.wait()
        return handler, CALLER.get().tenant

    calls = [asyncio.create_task(call()) for _ in range(2)]
    await asyncio.sleep(0)
    assert bench.calls.unanswered == 2
    code, text = await refused(await bench.asked("ModelMetadata"))
    assert (code, text) == (
        "RESOURCE_EXHAUSTED",
        "2 unary calls wait for their answers already; send fewer at once, or use a stream",
    )
    assert await bench.asked("ModelStreamInfer") is bench.methods["ModelStreamInfer"], "it has a bound of its own"
    end.set()
    assert await asyncio.gather(*calls) == [(bench.methods["ModelMetadata"], "")] * 2
    await asyncio.sleep(0)
    assert bench.calls.unanswered == 0


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff", "ServerMetadataRequest"),
        (bytes(4097), "the ServerMetadataRequest has 4097 bytes; expected at most 4096"),
    ],
)
async def test_a_message_that_is_none_ends_its_call(data: bytes, says: str) -> None:
    context = Context()
    await Bench().methods["ServerMetadata"].unary_unary(data, context)
    ((status, text, _),) = context.ended
    assert status.name == "INVALID_ARGUMENT"
    assert says in text

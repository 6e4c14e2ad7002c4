from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from gatestream.server.transport.grpc_server.health import Health


class Aborted(Exception):
    """The call ended with a status."""


class Context:
    """A call."""

    async def abort(self, code: Any) -> None:
        raise Aborted(code.name)


async def check(health: Health, service: str) -> str:
    servicer: Any = health.servicer
    answer = await servicer.Check(health_pb2.HealthCheckRequest(service=service), Context())
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


@pytest.mark.parametrize(("serving", "said"), [(False, "NOT_SERVING"), (True, "SERVING")])
async def test_the_server_and_its_services_are_said_to_serve_together(serving: bool, said: str) -> None:
    health = Health(["a.Service", "b.Service"])
    await health.say(serving=not serving)
    await health.say(serving=serving)
    assert [await check(health, name) for name in ("", "a.Service", "b.Service")] == [said] * 3
    with pytest.raises(Aborted, match="NOT_FOUND"):
        await check(health, "c.Service")


def test_anyone_may_ask_for_it() -> None:
    definition = Health().definition()
    assert [name for name in ("Check", "Watch") if name in definition.open_to_all] == ["Check", "Watch"]

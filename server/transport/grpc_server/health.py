"""gRPC's health service: what it says of this server and of its services."""

from collections.abc import Iterable
from typing import Any, Final

from grpc_health.v1 import health, health_pb2

from gatestream.server.transport.grpc_server.definition import ServiceDefinition

_DESCRIPTOR: Final[Any] = health_pb2.DESCRIPTOR.services_by_name["Health"]
_Response: Final = health_pb2.HealthCheckResponse


class Health:
    """Whether a server takes calls, for those who check it.

    Args:
        services: full names of those that may be asked for, beside the server as a whole.

    Attributes:
        servicer: what answers.
        serving: what it says.
    """

    def __init__(self, services: Iterable[str] = ()):
        self.servicer = health.aio.HealthServicer()
        self.serving = False
        self._names = ("", *services)

    async def say(self, *, serving: bool) -> None:
        """Answer so from now on, and tell those who watch."""
        self.serving = serving
        for name in self._names:
            await self.servicer.set(name, _Response.SERVING if serving else _Response.NOT_SERVING)

    def definition(self) -> ServiceDefinition:
        """The service. Whoever asks whether the server lives needs no token."""
        return ServiceDefinition(_DESCRIPTOR, self.servicer, open_to_all=("Check", "Watch"))

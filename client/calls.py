"""What the synchronous and the asyncio calls have in common: everything but asking."""

import math

from gatestream.client.channel import Settings, check_timeout
from gatestream.client.models import Models, Specs
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


class CallsView:
    """What is known of the server without asking it again."""

    def __init__(self, settings: Settings, models: Models) -> None:
        self._settings = settings
        self._models = models

    @property
    def models(self) -> dict[str, pb.ModelSpec]:
        """What the server had when it was last asked, by name: the newest version of each. Printed, a line for each."""
        return Specs(self._models.specs)

    @property
    def limits(self) -> pb.Limits:
        """The server's limits."""
        return self._models.limits

    def spec(self, model: str) -> pb.ModelSpec:
        """The newest version of a model; without a name, of the only one.

        Raises:
            ModelUnknownError: no such model, or no name where there are several.
        """
        return self._models.find(model)

    def seconds(self, timeout: float | None, steps: int = 1) -> float:
        """The timeout, or, where none is given, the client's for each message that so many steps need.

        Raises:
            InputError: it is not more than 0.
        """
        if timeout is None:
            messages = math.ceil(steps / self.limits.chunk_length) if steps > 1 else 1
            return self._settings.timeout * messages
        check_timeout("timeout", timeout)
        return timeout

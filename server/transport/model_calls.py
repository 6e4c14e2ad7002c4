"""The gRPC service that says which models are served, and who may call it."""

from typing import Any, Final

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.core.catalog import ModelState
from gatestream.server.core.model_control import ModelControl, ModelStatus
from gatestream.server.errors import Forbidden, InvalidRequest, ModelsFixed, Reason, cut
from gatestream.server.transport.auth import CALLER
from gatestream.server.transport.grpc_server.definition import ServiceDefinition

DESCRIPTOR: Final[Any] = pb.DESCRIPTOR.services_by_name["ModelControl"]

STATES: Final = {
    ModelState.LOADING: pb.MODEL_STATE_LOADING,
    ModelState.READY: pb.MODEL_STATE_READY,
    ModelState.DRAINING: pb.MODEL_STATE_DRAINING,
    ModelState.UNLOADED: pb.MODEL_STATE_UNLOADED,
    ModelState.FAILED: pb.MODEL_STATE_FAILED,
}
_LONGEST_SECONDS: Final = 1e9


class GuardedControl:
    """Which models are served, for those callers who may know and change it.

    Args:
        control: does what they ask.
        allowed: changes are (`ServerConfig.model_control`).

    Attributes:
        control: as given.
    """

    def __init__(self, control: ModelControl, *, allowed: bool):
        self.control = control
        self._allowed = allowed

    def to_change(self, what: str, name: str) -> ModelControl:
        """The control, for a caller who may change something.

        Args:
            what: is to be done.
            name: of the model that it is to be done to.

        Raises:
            ModelsFixed: nobody may.
            Forbidden: this caller may not.
            InvalidRequest: the name is empty.
        """
        if not self._allowed:
            raise ModelsFixed(
                f"explicit model load / unload is not allowed: cannot {what} {cut(name)!r}; which models are served is "
                "settled at the start of the server, unless it has --models and --model-control"
            )
        control = self.to_admin(f"{what} {cut(name)!r}")
        if not name:
            raise InvalidRequest("the model's name is ''; expected that of a folder of --models", Reason.MODEL_UNKNOWN)
        return control

    def to_admin(self, what: str) -> ModelControl:
        """The control, for a caller who is an admin.

        Raises:
            Forbidden: it is none.
        """
        if not CALLER.get().admin:
            raise Forbidden(
                f"this token may not {what}; show one that the server's file of tokens marks with admin = true"
            )
        return self.control


class ModelControlService:
    """ModelControl of our own protocol.

    Args:
        models: who may do what to them.
    """

    def __init__(self, models: GuardedControl):
        self._models = models

    def definition(self) -> ServiceDefinition:
        """The service as gRPC is told of it."""
        return ServiceDefinition(DESCRIPTOR, self)

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:  # noqa: N802
        """What is served, and what could be."""
        statuses = await self._models.to_admin("list all models").statuses()
        return pb.ListModelsResponse(models=[_status(each) for each in statuses])

    async def LoadModel(self, request: pb.LoadModelRequest, context: Any) -> pb.LoadModelResponse:  # noqa: N802
        """Serve one more."""
        control = self._models.to_change("load", request.name)
        status, moved = await control.load(request.name, request.version, migrate=request.migrate)
        return pb.LoadModelResponse(model=_status(status), migrated=moved)

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Any) -> pb.UnloadModelResponse:  # noqa: N802
        """Serve one less."""
        control = self._models.to_change("unload", request.name)
        seconds = request.deadline_s if request.HasField("deadline_s") else None
        if seconds is not None and not 0 <= seconds <= _LONGEST_SECONDS:
            raise InvalidRequest(f"deadline_s is {seconds}; expected 0 to {_LONGEST_SECONDS:,.0f}")
        statuses = await control.unload(request.name, request.version, seconds)
        return pb.UnloadModelResponse(models=[_status(each) for each in statuses])

    async def MigrateSessions(  # noqa: N802
        self, request: pb.MigrateSessionsRequest, context: Any
    ) -> pb.MigrateSessionsResponse:
        """Move sessions to another version."""
        control = self._models.to_change("move sessions of", request.name)
        moved = await control.migrate(request.name, request.from_version, request.to_version)
        return pb.MigrateSessionsResponse(migrated=moved)


def _status(status: ModelStatus) -> pb.ModelStatus:
    return pb.ModelStatus(
        name=status.name,
        version=status.version,
        state=STATES[status.state],
        error=status.error,
        sessions=status.sessions,
        weights_fingerprint=status.fingerprint,
        form=status.form,
    )

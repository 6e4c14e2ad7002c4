"""The gRPC service of the Open Inference Protocol."""

from collections.abc import Iterable, Mapping
from functools import partial
from itertools import islice
from typing import Any, Final

import gatestream
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.server.config import Limits
from gatestream.server.core.catalog import Catalog, ModelState
from gatestream.server.errors import InvalidRequest, NotFound, NotOffered, Reason
from gatestream.server.transport.auth import CALLER
from gatestream.server.transport.connection import Streams
from gatestream.server.transport.grpc_server.definition import ServiceDefinition
from gatestream.server.transport.model_calls import GuardedControl
from gatestream.server.transport.oip import InferenceCall, InferenceStream
from gatestream.server.transport.oip_models import configuration, index, metadata, statistics

DESCRIPTOR: Final[Any] = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"]

# In the words of the protocol's best-known servers, whose clients read it.
EXTENSIONS: Final = (
    "sequence",
    "sequence(string_id)",
    "model_stream_infer",
    "model_configuration",
    "model_repository",
    "binary_tensor_data",
    "statistics",
)
_NO_SHARED_MEMORY: Final = "this server does not map its clients' memory; send raw_input_contents"
_TRACE: Final = {
    "trace_level": "OFF",
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
"""What is traced: nothing."""
_SHOWN: Final = 140


class OpenInferenceService:
    """Health, metadata and inference in the words of that protocol. Tokens are checked before any of it.

    Args:
        models: what is served.
        limits: of the server.
        streams: where open streams are kept.
        control: which models are served, and who may change it.
    """

    def __init__(self, models: Catalog, limits: Limits, streams: Streams, control: GuardedControl):
        self._models = models
        self._control = control
        self._limits = limits
        self.ModelInfer = self._infer
        self.ModelStreamInfer = partial(streams.hold, partial(InferenceStream, models, limits))

    def definition(self) -> ServiceDefinition:
        """The service as gRPC is told of it. Whoever asks whether the server lives needs no token."""
        return ServiceDefinition(
            DESCRIPTOR,
            self,
            bytes_of={"ModelInfer": lambda: self._limits.message_bytes},
            unparsed=("ModelInfer",),
            streams=("ModelStreamInfer",),
            open_to_all=("ServerLive", "ServerReady"),
        )

    async def ServerLive(self, request: oip.ServerLiveRequest, context: Any) -> oip.ServerLiveResponse:  # noqa: N802
        """Whether it answers."""
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, request: oip.ServerReadyRequest, context: Any) -> oip.ServerReadyResponse:  # noqa: N802
        """Whether it takes new sequences. It listens when its models are warm."""
        return oip.ServerReadyResponse(ready=not self._models.draining)

    async def ModelReady(self, request: oip.ModelReadyRequest, context: Any) -> oip.ModelReadyResponse:  # noqa: N802
        """Whether a model is served."""
        try:
            model = self._models.find(request.name, request.version)
        except NotFound:
            return oip.ModelReadyResponse(ready=False)
        return oip.ModelReadyResponse(ready=model.state is ModelState.READY)

    async def ServerMetadata(  # noqa: N802
        self, request: oip.ServerMetadataRequest, context: Any
    ) -> oip.ServerMetadataResponse:
        """What this server is."""
        return oip.ServerMetadataResponse(name="gatestream", version=gatestream.__version__, extensions=EXTENSIONS)

    async def ModelMetadata(  # noqa: N802
        self, request: oip.ModelMetadataRequest, context: Any
    ) -> oip.ModelMetadataResponse:
        """A model's tensors."""
        model = self._models.find(request.name, request.version)
        ready = [each.version for each in self._models.versions(request.name) if each.state is ModelState.READY]
        return metadata(model, ready or [model.version])

    async def ModelConfig(  # noqa: N802
        self, request: oip.ModelConfigRequest, context: Any
    ) -> oip.ModelConfigResponse:
        """How a model is served."""
        model = self._models.find(request.name, request.version)
        return oip.ModelConfigResponse(config=configuration(model, self._limits))

    # ---- Which models there are ----------------------------------------------------------------

    async def RepositoryIndex(  # noqa: N802
        self, request: oip.RepositoryIndexRequest, context: Any
    ) -> oip.RepositoryIndexResponse:
        """The models that are served, and those that could be."""
        _check_unnamed(request.repository_name)
        models = index(await self._control.control.statuses())
        return oip.RepositoryIndexResponse(
            models=[item for item in models if item.state == "READY"] if request.ready else models
        )

    async def RepositoryModelLoad(  # noqa: N802
        self, request: oip.RepositoryModelLoadRequest, context: Any
    ) -> oip.RepositoryModelLoadResponse:
        """Serve one more, of those that lie under --models."""
        control = self._control.to_change("load", request.model_name)
        _check_unnamed(request.repository_name)
        await control.load(request.model_name, _version(request.parameters))
        return oip.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: oip.RepositoryModelUnloadRequest, context: Any
    ) -> oip.RepositoryModelUnloadResponse:
        """Serve one less."""
        control = self._control.to_change("unload", request.model_name)
        _check_unnamed(request.repository_name)
        await control.unload(request.model_name, _version(request.parameters))
        return oip.RepositoryModelUnloadResponse()

    # ---- Shared memory: none -------------------------------------------------------------------

    async def SystemSharedMemoryStatus(  # noqa: N802
        self, request: oip.SystemSharedMemoryStatusRequest, context: Any
    ) -> oip.SystemSharedMemoryStatusResponse:
        """No regions."""
        _check_none(request.name)
        return oip.SystemSharedMemoryStatusResponse()

    async def SystemSharedMemoryRegister(  # noqa: N802
        self, request: oip.SystemSharedMemoryRegisterRequest, context: Any
    ) -> oip.SystemSharedMemoryRegisterResponse:
        """Refused."""
        raise NotOffered(f"system shared memory region {request.name[:_SHOWN]!r}: {_NO_SHARED_MEMORY}")

    async def SystemSharedMemoryUnregister(  # noqa: N802
        self, request: oip.SystemSharedMemoryUnregisterRequest, context: Any
    ) -> oip.SystemSharedMemoryUnregisterResponse:
        """Done: no region is left."""
        return oip.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(  # noqa: N802
        self, request: oip.CudaSharedMemoryStatusRequest, context: Any
    ) -> oip.CudaSharedMemoryStatusResponse:
        """No regions."""
        _check_none(request.name)
        return oip.CudaSharedMemoryStatusResponse()

    async def CudaSharedMemoryRegister(  # noqa: N802
        self, request: oip.CudaSharedMemoryRegisterRequest, context: Any
    ) -> oip.CudaSharedMemoryRegisterResponse:
        """Refused."""
        raise NotOffered(f"CUDA shared memory region {request.name[:_SHOWN]!r}: {_NO_SHARED_MEMORY}")

    async def CudaSharedMemoryUnregister(  # noqa: N802
        self, request: oip.CudaSharedMemoryUnregisterRequest, context: Any
    ) -> oip.CudaSharedMemoryUnregisterResponse:
        """Done: no region is left."""
        return oip.CudaSharedMemoryUnregisterResponse()

    async def ModelStatistics(  # noqa: N802
        self, request: oip.ModelStatisticsRequest, context: Any
    ) -> oip.ModelStatisticsResponse:
        """What is counted of the models that are named, since they were loaded."""
        if request.version:
            named = [self._models.find(request.name, request.version)]
        else:
            named = self._models.versions(request.name) if request.name else self._models.all_versions()
        return oip.ModelStatisticsResponse(model_stats=[statistics(model) for model in named])

    # ---- Tracing and logging: to be read -------------------------------------------------------

    async def TraceSetting(  # noqa: N802
        self, request: oip.TraceSettingRequest, context: Any
    ) -> oip.TraceSettingResponse:
        """Nothing is traced."""
        if request.model_name:
            self._models.find(request.model_name)
        if request.settings:
            raise NotOffered(f"trace settings {_names(request.settings)} cannot be set: this server traces nothing")
        value = oip.TraceSettingResponse.SettingValue
        return oip.TraceSettingResponse(settings={name: value(value=[text]) for name, text in _TRACE.items()})

    async def LogSettings(self, request: oip.LogSettingsRequest, context: Any) -> oip.LogSettingsResponse:  # noqa: N802
        """What is logged is settled at the server's start."""
        if request.settings:
            raise NotOffered(
                f"log settings {_names(request.settings)} cannot be set: they are those of the server's start"
            )
        value = oip.LogSettingsResponse.SettingValue
        return oip.LogSettingsResponse(
            settings={
                "log_file": value(string_param=""),
                "log_info": value(bool_param=True),
                "log_warning": value(bool_param=True),
                "log_error": value(bool_param=True),
                "log_verbose_level": value(uint32_param=0),
                "log_format": value(string_param="default"),
            }
        )

    async def _infer(self, request: bytes, context: Any) -> bytes:
        """ModelInfer: one request, of a sequence or by itself. Its messages are not made into objects to be bytes."""
        call = InferenceCall(self._models, self._limits, CALLER.get().tenant)
        # Its answer is counted until the client has it, or has gone.
        context.add_done_callback(lambda _: call.end())
        return await call.infer(request)


def _check_none(region: str) -> None:
    if region:
        raise NotFound(f"no shared memory region {region[:_SHOWN]!r} is registered", Reason.UNSPECIFIED)


def _check_unnamed(repository: str) -> None:
    if repository:
        raise NotOffered(f"repository_name is {repository[:_SHOWN]!r}; this server has one, unnamed")


def _version(parameters: Mapping[str, oip.ModelRepositoryParameter]) -> str:
    """The version that a request names; empty: none.

    Raises:
        InvalidRequest: it sends a file or a configuration along, or asks for what is not known.
    """
    for name in parameters:
        if name == "config" or name.startswith("file:"):
            raise InvalidRequest(
                f"parameter {name[:_SHOWN]!r} is not taken: models and their configurations come from --models alone"
            )
        # This server loads and unloads nothing besides.
        if name not in ("version", "unload_dependents"):
            raise InvalidRequest(f"parameter {name[:_SHOWN]!r} is not known; there is: version")
    if "version" not in parameters:
        return ""
    kind = parameters["version"].WhichOneof("parameter_choice")
    if kind not in ("string_param", "int64_param"):
        raise InvalidRequest(f"parameter version is {kind or 'empty'}; expected string_param or int64_param")
    return str(getattr(parameters["version"], kind))


def _names(settings: Iterable[str]) -> list[str]:
    return [name[:40] for name in islice(settings, 8)]

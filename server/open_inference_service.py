"""The gRPC service of the Open Inference Protocol."""

from functools import partial
from typing import Any

import gatestream
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.inference import open_inference_grpc_pb2_grpc as oip_grpc
from gatestream.server.config import Limits
from gatestream.server.errors import NotFound
from gatestream.server.models import Models
from gatestream.server.open_inference import InferenceStream, metadata
from gatestream.server.streams import Streams
from gatestream.server.tenants import Tenants


class OpenInferenceService(oip_grpc.GRPCInferenceServiceServicer):
    """Health, metadata and inference in the words of that protocol.

    Args:
        models: what is served.
        limits: of the server.
        tenants: who may call; each sees its own sequences only.
        streams: where open streams are kept.
    """

    ModelStreamInfer: Any = None

    def __init__(self, models: Models, limits: Limits, tenants: Tenants, streams: Streams):
        self._models = models
        self._limits = limits
        self._tenants = tenants
        # As in the other service: gRPC wants to see an async generator function.
        self.ModelStreamInfer = partial(streams.hold, partial(InferenceStream, models, limits))

    async def ServerLive(self, request: oip.ServerLiveRequest, context: Any) -> oip.ServerLiveResponse:  # noqa: N802
        """Whether it answers."""
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, request: oip.ServerReadyRequest, context: Any) -> oip.ServerReadyResponse:  # noqa: N802
        """Whether it takes new sequences. It listens when its models are warm."""
        return oip.ServerReadyResponse(ready=not self._models.draining)

    async def ModelReady(self, request: oip.ModelReadyRequest, context: Any) -> oip.ModelReadyResponse:  # noqa: N802
        """Whether a model is served."""
        self._tenant(context)
        try:
            self._models.find(request.name, request.version)
        except NotFound:
            return oip.ModelReadyResponse(ready=False)
        return oip.ModelReadyResponse(ready=not self._models.draining)

    async def ServerMetadata(  # noqa: N802
        self, request: oip.ServerMetadataRequest, context: Any
    ) -> oip.ServerMetadataResponse:
        """What this server is."""
        return oip.ServerMetadataResponse(
            name="gatestream", version=gatestream.__version__, extensions=["sequence", "model_stream_infer"]
        )

    async def ModelMetadata(  # noqa: N802
        self, request: oip.ModelMetadataRequest, context: Any
    ) -> oip.ModelMetadataResponse:
        """A model's tensors."""
        self._tenant(context)
        return metadata(self._models.find(request.name, request.version).spec)

    async def ModelInfer(self, request: oip.ModelInferRequest, context: Any) -> oip.ModelInferResponse:  # noqa: N802
        """One request, of a sequence or by itself."""
        call = InferenceStream(self._models, self._limits, self._tenant(context))
        # Its answer is counted until the client has it, or has gone.
        context.add_done_callback(lambda _: call.disconnect())
        call.infer(request)
        item = await call.outbox.take()
        assert item is not None, "nobody ends the outbox of a single call"
        if call.failure is not None:
            raise call.failure
        return oip.ModelStreamInferResponse.FromString(item[0]).infer_response

    def _tenant(self, context: Any) -> str:
        return self._tenants.of(context.invocation_metadata() or ())

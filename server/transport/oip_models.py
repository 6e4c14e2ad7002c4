"""What the Open Inference Protocol says of the models that are served."""

import time
from collections.abc import Iterable, Sequence
from typing import Final

from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from gatestream.protos.layout import Column, State
from gatestream.server.config import Limits
from gatestream.server.core.catalog import Model, ModelState
from gatestream.server.core.model_control import ModelStatus
from gatestream.server.transport.oip_inputs import DATATYPES

PLATFORM: Final = "onnxruntime_onnx"
_BACKEND: Final = "onnxruntime"
_TYPES: Final = {dtype: getattr(oip, f"TYPE_{name}") for dtype, name in DATATYPES.items()}
_NEVER: Final = 2**63 - 1
_STATES: Final = {
    ModelState.LOADING: "LOADING",
    ModelState.READY: "READY",
    ModelState.DRAINING: "UNAVAILABLE",
    ModelState.UNLOADED: "UNAVAILABLE",
    ModelState.FAILED: "UNAVAILABLE",
}
_REASONS: Final = {ModelState.DRAINING: "draining", ModelState.UNLOADED: "unloaded"}
# Of steps: any number.
_TIME: Final = -1
# Of sequences in a request.
_BATCH: Final = 1


def metadata(model: Model, versions: Sequence[str]) -> oip.ModelMetadataResponse:
    """A model's tensors: those that a request brings, and those that one which names no outputs gets.

    Constants are inputs without time, which the first request of a sequence brings.

    Args:
        model: which.
        versions: of it, that are ready.
    """

    def tensor(item: Column, *ahead: int) -> oip.ModelMetadataResponse.TensorMetadata:
        return oip.ModelMetadataResponse.TensorMetadata(
            name=item.name, datatype=DATATYPES[item.dtype], shape=[*(ahead or (_BATCH, _TIME)), *item.shape]
        )

    layout = model.engine.layout
    return oip.ModelMetadataResponse(
        name=model.spec.name,
        versions=versions,
        platform=PLATFORM,
        inputs=[*map(tensor, layout.inputs), *(tensor(item, _BATCH) for item in layout.constants)],
        outputs=list(map(tensor, layout.outputs)),
    )


def configuration(model: Model, limits: Limits) -> oip.ModelConfig:
    """How a model is served. Its dims do not count the batch, which is the one sequence of a request."""
    layout = model.engine.layout
    return oip.ModelConfig(
        name=layout.name,
        platform=PLATFORM,
        backend=_BACKEND,
        max_batch_size=_BATCH,
        input=[
            *(_input(item, _TIME, *item.shape) for item in layout.inputs),
            *(_input(item, *item.shape) for item in layout.constants),
        ],
        output=[
            oip.ModelOutput(name=item.name, data_type=_TYPES[item.dtype], dims=[_TIME, *item.shape])
            for item in layout.outputs
        ],
        sequence_batching=oip.ModelSequenceBatching(
            oldest=oip.ModelSequenceBatching.StrategyOldest(max_candidate_sequences=limits.sessions),
            max_sequence_idle_microseconds=int(min(1e6 * model.lifecycle.expiry.sequence_timeout, _NEVER)),
            control_input=_controls(),
            state=[_state(item) for item in layout.states if not item.constant],
        ),
        instance_group=[
            oip.ModelInstanceGroup(
                name=f"{layout.name}_0",
                kind=oip.ModelInstanceGroup.KIND_CPU if model.on_cpu else oip.ModelInstanceGroup.KIND_GPU,
                count=1,
            )
        ],
        model_transaction_policy=oip.ModelTransactionPolicy(decoupled=False),
    )


def index(statuses: Iterable[ModelStatus]) -> list[oip.RepositoryIndexResponse.ModelIndex]:
    """Every model that is served, or could be, by its state in the words of other servers."""
    return [
        oip.RepositoryIndexResponse.ModelIndex(
            name=status.name, version=status.version, state=_STATES[status.state], reason=_reason(status)
        )
        for status in statuses
    ]


def _reason(status: ModelStatus) -> str:
    return status.error or _REASONS.get(status.state, "")


def statistics(model: Model) -> oip.ModelStatistics:
    """What is counted of a model. What is not known, as how long a run that failed took, is 0.

    An inference is one sequence's part of a run, and a sequence's queue time is that of the part that waited longest.
    """
    engine, stats = model.engine, model.engine.counted()
    computed = sum(entries * seconds for entries, (_, seconds) in stats.sizes.items())
    runs = sum(stats.runs.values())
    return oip.ModelStatistics(
        name=model.spec.name,
        version=model.spec.version,
        last_inference=int(1000 * (time.time() - engine.clock() + engine.rows.began)) if runs else 0,
        inference_count=stats.entries,
        execution_count=runs,
        inference_stats=oip.InferStatistics(
            success=_duration(stats.entries, stats.waited + computed),
            fail=_duration(stats.failed_entries, 0.0),
            queue=_duration(stats.entries, stats.waited),
            compute_infer=_duration(stats.entries, computed),
        ),
        batch_stats=[
            oip.InferBatchStatistics(batch_size=entries, compute_infer=_duration(count, seconds))
            for entries, (count, seconds) in sorted(stats.sizes.items())
        ],
    )


def _duration(count: int, seconds: float) -> oip.StatisticDuration:
    return oip.StatisticDuration(count=count, ns=int(1e9 * seconds))


def _controls() -> Sequence[oip.ModelSequenceBatching.ControlInput]:
    """The parameters of a request that control its sequence, by the names that controls have in examples."""
    control = oip.ModelSequenceBatching.Control
    flags = [("START", control.CONTROL_SEQUENCE_START), ("END", control.CONTROL_SEQUENCE_END)]
    named = [(name, control(kind=kind, bool_false_true=[False, True])) for name, kind in flags]
    named.append(("CORRID", control(kind=control.CONTROL_SEQUENCE_CORRID, data_type=oip.TYPE_STRING)))
    return [oip.ModelSequenceBatching.ControlInput(name=name, control=[item]) for name, item in named]


def _input(item: Column, *dims: int) -> oip.ModelInput:
    return oip.ModelInput(name=item.name, data_type=_TYPES[item.dtype], dims=dims)


def _state(state: State) -> oip.ModelSequenceBatching.State:
    kind, dims = _TYPES[state.dtype], list(state.shape)
    return oip.ModelSequenceBatching.State(
        input_name=state.name,
        output_name=state.after,
        data_type=kind,
        dims=dims,
        # The message has no word for another number than 0.
        initial_state=[]
        if state.initial or state.initial_row
        else [
            oip.ModelSequenceBatching.InitialState(data_type=kind, dims=dims, zero_data=True, name=f"{state.name}_0")
        ],
    )

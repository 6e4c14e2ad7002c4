"""The ModelSpec of an adopted model."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir

import gatestream
from gatestream.export.adopting.signature import Carried, Dim, End, Signature
from gatestream.export.adopting.slots import is_recurrent
from gatestream.export.adopting.states import Pair
from gatestream.export.graph.flow import integer
from gatestream.protos import spec as specs
from gatestream.protos.dtypes import DTYPES
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.weights import fingerprint

_BY_DTYPE: Final = {dtype: known for known, dtype in DTYPES.items()}
_KINDS: Final = {"LSTM": pb.CELL_KIND_LSTM, "DynamicQuantizeLSTM": pb.CELL_KIND_LSTM, "GRU": pb.CELL_KIND_GRU}


@dataclass(slots=True)
class Origin:
    """The file as it came.

    Attributes:
        source: what is said of it in the spec; its tensors are added as they are found out.
        fingerprint: of its weights.
    """

    source: pb.Source
    fingerprint: str

    @classmethod
    def of(cls, path: Path, model: ir.Model) -> "Origin":
        """Of a file that was read as this model."""
        data = path.read_bytes()
        header = onnx.load_model_from_string(data)
        opset = next((item.version for item in header.opset_import if item.domain in ("", "ai.onnx")), 0)
        weights = {
            name: value.const_value.numpy()
            for name, value in model.graph.initializers.items()
            if value.const_value is not None and value.const_value.dtype.is_floating_point()
        }
        source = pb.Source(
            name=path.name,
            sha256=hashlib.sha256(data).hexdigest(),
            producer=f"{header.producer_name} {header.producer_version}".strip(),
            opset=opset,
        )
        return cls(source, fingerprint({name: np.asarray(array, np.float32) for name, array in weights.items()}))

    def add(
        self, name: str, role: str, dims: Sequence[Dim], end: End | None = None, *, found: str, becomes: str = ""
    ) -> None:
        """Say what one of the file's inputs and outputs was found to be."""
        self.source.tensors.append(
            pb.SourceTensor(
                name=name,
                role=role,
                shape=[dim if isinstance(dim, int) else -1 for dim in dims],
                batch_axis=-1 if end is None or end.batch is None else end.batch,
                time_axis=-1 if end is None or end.time is None else end.time,
                becomes=becomes,
                found=found,
            )
        )


def cells_of(model: ir.Model, pairs: Sequence[Pair]) -> list[pb.CellSpec]:
    """The recurrent operators of the main graph, in order."""
    return [
        pb.CellSpec(
            name=node.name,
            kind=_KINDS.get(node.op_type, pb.CELL_KIND_RNN),
            hidden=integer(node, "hidden_size", 0),
            states=[pair.input.name or "" for pair in pairs if pair.cell == node.name],
            linear_before_reset=node.op_type == "GRU" and integer(node, "linear_before_reset", 0) == 1,
        )
        for node in model.graph
        if is_recurrent(node)
    ]


def describe(
    signature: Signature,
    origin: Origin,
    cells: Sequence[pb.CellSpec],
    *,
    name: str,
    version: str,
    opset: int,
    windows: Mapping[str, tuple[int, int]],
) -> pb.ModelSpec:
    """Say what an adopted model's tensors mean. Parity figures and promises are added when they are known.

    Args:
        signature: of the graph in normal form.
        origin: the file that it was.
        cells: that it has.
        name: of the model.
        version: what the server calls it.
        opset: of the graph.
        windows: by input that is one, the samples of a window and of the context before it.
    """
    kinds = [f"{pb.CellKind.Name(cell.kind).removeprefix('CELL_KIND_')} {cell.hidden}" for cell in cells]
    spec = pb.ModelSpec(
        contract=specs.CONTRACT_ANY,
        name=name,
        version=version,
        description=f"{origin.source.name}: {', '.join(kinds) or 'no recurrent operator'}",
        inputs=[_tensor(end, *windows.get(end.name, (0, 0))) for end in signature.inputs],
        outputs=[_tensor(end) for end in signature.outputs],
        states=[_state(state) for state in signature.states],
        opset=opset,
        gatestream_version=gatestream.__version__,
        weights_fingerprint=origin.fingerprint,
        cells=cells,
    )
    spec.source.CopyFrom(origin.source)
    return spec


def _tensor(end: End, samples: int = 0, before: int = 0) -> pb.TensorSpec:
    return pb.TensorSpec(
        name=end.name,
        dtype=_BY_DTYPE[end.dtype],
        shape=end.shape,
        window=samples,
        context=before,
        limit=end.limit,
    )


def _state(state: Carried) -> pb.StateSpec:
    end, pair = state.end, state.pair
    found = pb.StateSpec(
        input=pair.input.name,
        output=pair.output.name,
        dtype=_BY_DTYPE[end.dtype],
        shape=end.shape,
        role=pair.role,
        required=pair.role == pb.STATE_ROLE_CONSTANT and pair.initial is None,
    )
    if pair.initial is not None:
        row = np.broadcast_to(pair.initial, end.base).reshape(end.shape).astype(end.dtype)
        # The sessions' axis has size 1 wherever it is: taking it away moves nothing.
        if row.size and (row == row.flat[0]).all():
            found.initial = float(row.flat[0])
        else:
            found.initial_values = np.ascontiguousarray(row, row.dtype.newbyteorder("<")).tobytes()
    return found

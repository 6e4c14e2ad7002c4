"""An ONNX file made by the export, as the server sees it: its spec, and the graphs that are run."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from gatestream.files.reading import read
from gatestream.protos.bounds import LARGEST_FILE, BoundsError, check_bounds
from gatestream.protos.dtypes import DTYPES
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.layout import ModelLayout, State
from gatestream.protos.spec import CONTRACT_ANY, SpecError, from_metadata
from gatestream.protos.weights import WeightsError, intact_fingerprint, stored_fingerprint
from gatestream.server.errors import ArtifactError

_ELEMENT: Final = {known: helper.np_dtype_to_tensor_dtype(dtype) for known, dtype in DTYPES.items()}

# Names of what `arena_graph` adds; no exporter makes names with this prefix.
_PREFIX: Final = "gatestream."
SLOTS: Final = _PREFIX + "slots"
DUE_SLOTS: Final = _PREFIX + "due_slots"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that can be served.

    Attributes:
        spec: what the file says of itself, checked against its graph.
        model: the graph as it is in the file.
        layout: of the model.
    """

    spec: pb.ModelSpec
    model: onnx.ModelProto
    layout: ModelLayout = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", ModelLayout.of(self.spec))

    @classmethod
    def load(cls, path: Path) -> "Artifact":
        """Read a file.

        Raises:
            ArtifactError: no such file, not ONNX, no spec, or a graph that is not as its spec says.
        """
        try:
            # Not by onnx.load, which chooses by the name how to read, and opens other files that this one names.
            model = onnx.load_model_from_string(read(path, LARGEST_FILE))
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read as an ONNX file: {error.strerror}") from error
        except DecodeError as error:
            raise ArtifactError(f"{path}: cannot be read as an ONNX file: {error}") from error
        try:
            check_bounds(model, str(path))
            spec = from_metadata({item.key: item.value for item in model.metadata_props}, str(path))
        except (SpecError, BoundsError) as error:
            raise ArtifactError(str(error)) from error
        _check(spec, model.graph, path)
        _check_fingerprint(spec, model.graph, path)
        return cls(spec, model)

    def served_as(self, name: str, version: str) -> "Artifact":
        """The same under another name and version than its spec says."""
        spec = pb.ModelSpec()
        spec.CopyFrom(self.spec)
        spec.name, spec.version = name, version
        return replace(self, spec=spec)


def arena_name(state: State) -> str:
    """What `arena_graph` calls the arena of a state."""
    return _PREFIX + state.name


def arena_output_name(state: State) -> str:
    """What `arena_graph` calls the arena of a state after the step."""
    return _PREFIX + state.after


def due_name(state: State) -> str:
    """What `arena_graph` calls the rows of a state that are written before the step."""
    return f"{_PREFIX}due_{state.name}"


def arena_graph(artifact: Artifact) -> onnx.ModelProto:
    """The model behind a scatter and a gather: `arena[due_slots] = due`, then `arena[slots] → model`.

    In place of each state input [batch, *shape] stands its arena [capacity, *shape], which is also an output: bound to
    one buffer as both, it never leaves its device. The state outputs stay as they are: they are the rows that are due,
    at `DUE_SLOTS` [due], in the next run, so that a run that fails anywhere has written nothing of its own. The rows to
    step are the int64 input `SLOTS` [batch].
    """
    model = onnx.ModelProto()
    model.CopyFrom(artifact.model)
    graph = model.graph
    states = {state.name: state for state in artifact.layout.states}
    inputs = [item for item in graph.input if item.name not in states]
    write_inputs, write_outputs, write_nodes = _write(artifact.layout, graph)
    del graph.input[:]
    graph.input.extend([*inputs, helper.make_tensor_value_info(SLOTS, TensorProto.INT64, ["batch"]), *write_inputs])
    graph.output.extend(write_outputs)
    gathers = [helper.make_node("Gather", [arena_output_name(s), SLOTS], [s.name]) for s in states.values()]
    nodes = [*write_nodes, *gathers, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def rows_graphs(artifact: Artifact) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Two small graphs on the arenas: one reads rows (outputs named as the state inputs), one writes what is due."""
    states = artifact.layout.states
    read = helper.make_graph(
        [helper.make_node("Gather", [arena_name(state), SLOTS], [state.name]) for state in states],
        "read",
        [
            helper.make_tensor_value_info(SLOTS, TensorProto.INT64, ["batch"]),
            *(_tensor(arena_name(state), state, "capacity") for state in states),
        ],
        [_tensor(state.name, state, "batch") for state in states],
    )
    write = onnx.GraphProto(name="write")
    inputs, outputs, nodes = _write(artifact.layout, write)
    write.input.extend(inputs)
    write.output.extend(outputs)
    write.node.extend(nodes)
    opset = helper.make_opsetid("", artifact.spec.opset)
    ir_version = artifact.model.ir_version
    reader, writer = (helper.make_model(g, opset_imports=[opset], ir_version=ir_version) for g in (read, write))
    return reader, writer


def _write(
    layout: ModelLayout, graph: onnx.GraphProto
) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto], list[onnx.NodeProto]]:
    """Inputs, outputs and nodes of `arena[due_slots] = due`; their constant is put into the graph."""
    axis, indices = _PREFIX + "axis", _PREFIX + "indices"
    graph.initializer.append(helper.make_tensor(axis, TensorProto.INT64, [1], [-1]))
    inputs = [helper.make_tensor_value_info(DUE_SLOTS, TensorProto.INT64, ["due"])]
    outputs = []
    nodes = [helper.make_node("Unsqueeze", [DUE_SLOTS, axis], [indices])]
    for state in layout.states:
        before, rows, after = arena_name(state), due_name(state), arena_output_name(state)
        inputs += [_tensor(before, state, "capacity"), _tensor(rows, state, "due")]
        outputs.append(_tensor(after, state, "capacity"))
        nodes.append(helper.make_node("ScatterND", [before, indices, rows], [after]))
    return inputs, outputs, nodes


def _tensor(name: str, state: State, rows: str) -> onnx.ValueInfoProto:
    shape: list[str | int | None] = [rows, *state.shape]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(state.dtype), shape)


def _check_fingerprint(spec: pb.ModelSpec, graph: onnx.GraphProto, path: Path) -> None:
    """The weights are those that were exported."""
    try:
        initializers = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    except (ValueError, TypeError, KeyError) as error:  # what NumPy says of a size that does not go with the data
        raise ArtifactError(f"{path}: an initializer is not as large as it says: {error}") from error
    try:
        if spec.contract == CONTRACT_ANY:
            found, expected = intact_fingerprint(initializers), spec.stored_fingerprint
        else:
            found, expected = stored_fingerprint(initializers, spec), spec.weights_fingerprint
    except WeightsError as error:
        raise ArtifactError(f"{path}: {error}") from error
    if found != expected:
        raise ArtifactError(
            f"{path}: its weights hash to {found[:16]}, its spec says {expected[:16] or 'nothing'}: "
            "weights or spec were changed after the export; export it again"
        )


def _check(spec: pb.ModelSpec, graph: onnx.GraphProto, path: Path) -> None:
    weights = {item.name for item in graph.initializer}
    inputs = {item.name: item for item in graph.input if item.name not in weights}
    outputs = {item.name: item for item in graph.output}
    expected_inputs = {item.name: (item.dtype, 2 + len(item.shape)) for item in spec.inputs}
    expected_inputs |= {item.input: (item.dtype, 1 + len(item.shape)) for item in spec.states}
    expected_outputs = {item.name: (item.dtype, 2 + len(item.shape)) for item in spec.outputs}
    expected_outputs |= {item.output: (item.dtype, 1 + len(item.shape)) for item in spec.states}
    own = spec.contract != CONTRACT_ANY
    expected_outputs |= {item.output: (pb.DATA_TYPE_FLOAT32, 4 if own else 2 + len(item.shape)) for item in spec.gates}
    # Of another's model it was asked for that it be served without states.
    if not spec.inputs or not spec.outputs or (own and not spec.states):
        raise ArtifactError(
            f"{path}: its spec names no inputs, no outputs or no states; a recurrent model has all three"
        )
    if missing := expected_outputs.keys() - outputs.keys():
        raise ArtifactError(f"{path}: its spec names the outputs {sorted(missing)}, which its graph does not have")
    blind = [item.name for item in spec.inputs if item.dtype == pb.DATA_TYPE_INT64 and not item.vocabulary]
    if own and blind:
        raise ArtifactError(f"{path}: its spec gives no vocabulary for the token inputs {blind}")
    named = expected_inputs.keys() | ({spec.length_input} if spec.length_input else set())
    if different := named ^ inputs.keys():
        raise ArtifactError(
            f"{path}: the inputs {sorted(different)} stand in its spec or in its graph, but not in both"
        )
    for expected, found in ((expected_inputs, inputs), (expected_outputs, outputs)):
        for name, (dtype, rank) in expected.items():
            tensor = found[name].type.tensor_type
            if dtype not in _ELEMENT or tensor.elem_type != _ELEMENT[dtype] or len(tensor.shape.dim) != rank:
                raise ArtifactError(
                    f"{path}: tensor {name!r} is {TensorProto.DataType.Name(tensor.elem_type)} of "
                    f"{len(tensor.shape.dim)} axes; its spec says {pb.DataType.Name(dtype)} of {rank}"
                )

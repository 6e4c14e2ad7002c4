"""An ONNX file made by the export, as the server sees it: its spec, and the graphs that are run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.spec import SpecError, from_metadata
from gatestream.server.errors import ArtifactError

_ELEMENT: Final = {pb.DATA_TYPE_FLOAT32: TensorProto.FLOAT, pb.DATA_TYPE_INT64: TensorProto.INT64}

# Names of what `arena_graph` adds; no exporter makes names with this prefix.
_PREFIX: Final = "gatestream."
SLOTS: Final = _PREFIX + "slots"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that can be served.

    Attributes:
        spec: what the file says of itself, checked against its graph.
        model: the graph as it is in the file.
    """

    spec: pb.ModelSpec
    model: onnx.ModelProto

    @classmethod
    def load(cls, path: Path) -> "Artifact":
        """Read a file.

        Raises:
            ArtifactError: no such file, not ONNX, no spec, or a graph that is not as its spec says.
        """
        try:
            model = onnx.load(path)
        except (OSError, DecodeError) as error:
            raise ArtifactError(f"{path}: cannot be read as an ONNX file: {error}") from error
        try:
            spec = from_metadata({item.key: item.value for item in model.metadata_props}, str(path))
        except SpecError as error:
            raise ArtifactError(str(error)) from error
        _check(spec, model.graph, path)
        return cls(spec, model)


def arena_name(state: pb.StateSpec) -> str:
    """What `arena_graph` calls the arena of a state."""
    return _PREFIX + state.input


def arena_output_name(state: pb.StateSpec) -> str:
    """What `arena_graph` calls the arena of a state after the step."""
    return _PREFIX + state.output


def arena_graph(artifact: Artifact) -> onnx.ModelProto:
    """The model between a gather and a scatter: `arena[slots] → model → arena[slots]`.

    In place of each state input [batch, *shape] stands its arena [capacity, *shape], and so do the outputs; the rows to
    step are the int64 input `SLOTS` [batch]. Bound to one buffer as input and output, an arena never leaves its device.
    """
    model = onnx.ModelProto()
    model.CopyFrom(artifact.model)
    graph = model.graph
    states = {state.input: state for state in artifact.spec.states}
    inputs = [item for item in graph.input if item.name not in states]
    del graph.input[:]
    graph.input.extend([*inputs, helper.make_tensor_value_info(SLOTS, TensorProto.INT64, ["batch"])])
    outputs = [item for item in graph.output if item.name not in {s.output for s in states.values()}]
    del graph.output[:]
    graph.output.extend(outputs)
    gathers, scatters = [], [helper.make_node("Unsqueeze", [SLOTS, _PREFIX + "axis"], [_PREFIX + "indices"])]
    graph.initializer.append(helper.make_tensor(_PREFIX + "axis", TensorProto.INT64, [1], [-1]))
    for state in states.values():
        before, after = arena_name(state), arena_output_name(state)
        shape: list[str | int | None] = ["capacity", *state.shape]
        graph.input.append(helper.make_tensor_value_info(before, _ELEMENT[state.dtype], shape))
        graph.output.append(helper.make_tensor_value_info(after, _ELEMENT[state.dtype], shape))
        gathers.append(helper.make_node("Gather", [before, SLOTS], [state.input]))
        scatters.append(helper.make_node("ScatterND", [before, _PREFIX + "indices", state.output], [after]))
    nodes = [*gathers, *graph.node, *scatters]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def rows_graphs(artifact: Artifact) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Two small graphs on the arenas: one reads rows (outputs named as the spec's state inputs), one writes them."""
    read, write = [], [helper.make_node("Unsqueeze", [SLOTS, _PREFIX + "axis"], [_PREFIX + "indices"])]
    slots = helper.make_tensor_value_info(SLOTS, TensorProto.INT64, ["batch"])
    arenas, rows, after = [], [], []
    for state in artifact.spec.states:
        element = _ELEMENT[state.dtype]
        arenas.append(helper.make_tensor_value_info(arena_name(state), element, ["capacity", *state.shape]))
        after.append(helper.make_tensor_value_info(arena_output_name(state), element, ["capacity", *state.shape]))
        rows.append(helper.make_tensor_value_info(state.input, element, ["batch", *state.shape]))
        read.append(helper.make_node("Gather", [arena_name(state), SLOTS], [state.input]))
        write.append(
            helper.make_node(
                "ScatterND", [arena_name(state), _PREFIX + "indices", state.input], [arena_output_name(state)]
            )
        )
    axis = helper.make_tensor(_PREFIX + "axis", TensorProto.INT64, [1], [-1])
    graphs = (
        helper.make_graph(read, "read", [slots, *arenas], rows),
        helper.make_graph(write, "write", [slots, *arenas, *rows], after, [axis]),
    )
    opset = helper.make_opsetid("", artifact.spec.opset)
    ir_version = artifact.model.ir_version
    reader, writer = (helper.make_model(g, opset_imports=[opset], ir_version=ir_version) for g in graphs)
    return reader, writer


def _check(spec: pb.ModelSpec, graph: onnx.GraphProto, path: Path) -> None:
    weights = {item.name for item in graph.initializer}
    inputs = {item.name: item for item in graph.input if item.name not in weights}
    outputs = {item.name: item for item in graph.output}
    expected_inputs = {item.name: (item.dtype, 2 + len(item.shape)) for item in spec.inputs}
    expected_inputs |= {item.input: (item.dtype, 1 + len(item.shape)) for item in spec.states}
    expected_outputs = {item.name: (item.dtype, 2 + len(item.shape)) for item in spec.outputs}
    expected_outputs |= {item.output: (item.dtype, 1 + len(item.shape)) for item in spec.states}
    expected_outputs |= {item.output: (pb.DATA_TYPE_FLOAT32, 4) for item in spec.gates}
    if not spec.inputs or not spec.outputs or not spec.states:
        raise ArtifactError(
            f"{path}: its spec names no inputs, no outputs or no states; a recurrent model has all three"
        )
    if missing := expected_outputs.keys() - outputs.keys():
        raise ArtifactError(f"{path}: its spec names the outputs {sorted(missing)}, which its graph does not have")
    if blind := [item.name for item in spec.inputs if item.dtype == pb.DATA_TYPE_INT64 and not item.vocabulary]:
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

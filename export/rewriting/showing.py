"""Tensors from inside a graph put out as [batch, time, *shape], whatever Scans and Loops they stand in."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from gatestream.export.errors import ArtifactError, StructureError
from gatestream.export.finder.scopes import Scopes
from gatestream.export.graph.flow import label
from gatestream.export.graph.initializers import store
from gatestream.export.proof.runtime import new_session, one_line
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.layout import ModelLayout

_SIZES = ((2, 3), (5, 7))
"""Rows and steps of the two runs that show which axis is which."""

_SCAN_AXES = ("scan_output_axes", "scan_output_directions")


@dataclass(frozen=True, slots=True)
class Shown:
    """A tensor that a graph puts out.

    Attributes:
        output: its name.
        shape: of a step, behind batch and time.
    """

    output: str
    shape: tuple[int, ...]


def show(model: ir.Model, spec: pb.ModelSpec, values: Mapping[str, ir.Value]) -> dict[str, Shown]:
    """Add outputs to a graph in normal form.

    Which axis of a tensor is whose is found by running the graph twice, with other numbers of rows and steps.

    Args:
        model: it is changed.
        spec: its inputs and states.
        values: tensors of any of its graphs, float, by the name that each is to have as an output.

    Returns:
        What each has become, by the same names.

    Raises:
        StructureError: a tensor stands in an If, or has no axis for rows, or none for steps.
        ArtifactError: onnxruntime refuses the graph, or is not installed.
    """
    scopes = Scopes(model)
    holders = {scope.graph: scope.node for scope in scopes.all}
    raw = {}
    for name, value in values.items():
        raw[name] = _lifted(value, holders)
        if raw[name].is_graph_output():
            raw[name] = _after(model.graph, raw[name], "Identity", [])
        raw[name].name = name
        raw[name].shape = None
        if raw[name].type is None:
            raw[name].type = ir.TensorType(ir.DataType.FLOAT)
    model.graph.outputs.extend(raw.values())
    one, other = (_shapes(model, spec, list(raw), *sizes) for sizes in _SIZES)
    shown = {}
    for name, value in raw.items():
        shown[name] = _arranged(model.graph, name, value, one[name], other[name])
    return shown


def hide(model: ir.Model, outputs: Collection[str]) -> None:
    """Put these tensors out no more, undoing `show`.

    Args:
        model: it is changed.
        outputs: of the graph, by name.
    """
    for value in list(model.graph.outputs):
        if value.name in outputs:
            model.graph.outputs.remove(value)
    common.RemoveUnusedNodesPass()(model)
    for scope in Scopes(model).all:
        if scope.node is not None and scope.node.op_type in ("Scan", "Loop"):
            _trim(scope.node, scope.graph)
    common.RemoveUnusedNodesPass()(model)


def _trim(holder: ir.Node, body: ir.Graph) -> None:
    """Take off the last of what is collected of each step, as long as nobody uses it."""
    given = 0 if holder.op_type == "Scan" else 2
    scanned = holder.attributes["num_scan_inputs"].as_int() if holder.op_type == "Scan" else 0
    carried = len(holder.inputs) - given - scanned
    while len(holder.outputs) > carried:
        last = holder.outputs[-1]
        if last.uses() or last.is_graph_output():
            break
        body.outputs.pop()
        for name in _SCAN_AXES:
            if name in holder.attributes:
                holder.attributes[name] = ir.AttrInt64s(name, holder.attributes[name].as_ints()[:-1])
        holder.resize_outputs(len(holder.outputs) - 1)


def _lifted(value: ir.Value, holders: Mapping[ir.Graph, ir.Node | None]) -> ir.Value:
    """The tensor of the model's own graph that collects what `value` is in each turn of each body around it."""
    graph = value.graph
    assert graph is not None  # it was found in one
    while (holder := holders[graph]) is not None:
        if holder.op_type not in ("Scan", "Loop"):
            raise StructureError(
                f"{label(value)} is inside {holder.op_type} '{holder.name}', of which only one branch is run: its "
                "activations cannot be put out; fold the condition first (--constant)"
            )
        value = _collected(holder, graph, value)
        graph = holder.graph
        assert graph is not None
    return value


def _collected(holder: ir.Node, body: ir.Graph, value: ir.Value) -> ir.Value:
    inside = value
    if value.is_graph_output() or value.is_graph_input():
        inside = _after(body, value, "Identity", [])
        inside.name = f"{value.name}_collected"
    body.outputs.append(inside)
    for name in _SCAN_AXES:
        if name in holder.attributes:
            holder.attributes[name] = ir.AttrInt64s(name, [*holder.attributes[name].as_ints(), 0])
    holder.resize_outputs(len(holder.outputs) + 1)
    outside = holder.outputs[-1]
    outside.name = f"{value.name}_steps"
    outside.type = value.type
    return outside


def _after(
    graph: ir.Graph, value: ir.Value, operator: str, inputs: Sequence[ir.Value], **attributes: object
) -> ir.Value:
    """Another node, at the end of a graph."""
    node = ir.node(operator, [value, *inputs], attributes)  # type: ignore[arg-type]  # ints and lists of them
    graph.append(node)
    node.outputs[0].type = value.type
    return node.outputs[0]


def _shapes(
    model: ir.Model, spec: pb.ModelSpec, names: Sequence[str], rows: int, steps: int
) -> dict[str, tuple[int, ...]]:
    """Which shapes outputs have in a run of so many rows and steps."""
    layout = ModelLayout.of(spec)
    feed = {each.name: np.zeros((rows, steps, *each.shape), each.dtype) for each in layout.inputs}
    feed |= {each.name: np.repeat(each.first()[None], rows, axis=0) for each in layout.states}
    if layout.length:
        feed[layout.length] = np.full(rows, steps, np.int32)
    what = "the graph with its gates put out"
    running = new_session(ir.to_proto(model).SerializeToString(), what, optimised=False)
    try:
        found = running.run(list(names), feed)
    except Exception as error:  # onnxruntime's own classes have no common base but this
        raise ArtifactError(f"onnxruntime refuses {what}: {one_line(error)}") from error
    return {name: array.shape for name, array in zip(names, found, strict=True)}


def _arranged(graph: ir.Graph, name: str, value: ir.Value, one: tuple[int, ...], other: tuple[int, ...]) -> Shown:
    """Put rows first, then steps, and leave out what is of size 1 but for the last axis."""
    (rows, steps), (more_rows, more_steps) = _SIZES
    changed = [axis for axis, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    batch = [axis for axis in changed if (one[axis], other[axis]) == (rows, more_rows)]
    # A step may be several of the cell's own: they lie one after another.
    times = [axis for axis in changed if one[axis] * more_steps == other[axis] * steps and one[axis] % steps == 0]
    if len(batch) != 1 or len(times) != 1 or len(changed) != 2:
        raise StructureError(
            f"'{name}' is {list(one)} of {rows} rows of {steps} steps and {list(other)} of {more_rows} rows of "
            f"{more_steps} steps: expected one axis of rows and one of steps"
        )
    inner = one[times[0]] // steps
    kept = [axis for axis in range(len(one)) if axis not in changed and (one[axis] != 1 or axis == len(one) - 1)]
    shape = tuple([inner] * (inner != 1) + [one[axis] for axis in kept])
    dropped = [axis for axis in range(len(one)) if axis not in (*changed, *kept)]
    order = [batch[0], times[0], *kept, *dropped]
    position = list(graph.outputs).index(value)
    final = value
    if order != list(range(len(one))):
        final = _after(graph, final, "Transpose", [], perm=order)
        final.name = f"{name}_ordered"
    if dropped or inner != 1:
        # 0: as it is, -1: as many as there are steps
        target = np.array([0, -1, *shape], np.int64)
        final = _after(graph, final, "Reshape", [store(graph, f"{name}_shape", target)])
        final.name = f"{name}_shaped"
    if value.dtype != ir.DataType.FLOAT:
        final = _after(graph, final, "Cast", [], to=int(ir.DataType.FLOAT))
    if final is not value:
        value.name = f"{name}_found"
        graph.outputs[position] = final
    final.name = name
    final.type = ir.TensorType(ir.DataType.FLOAT)
    final.shape = ir.Shape(["batch", "time", *shape])
    return Shown(name, shape)

"""States that a graph keeps to itself become its inputs and outputs."""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from gatestream.export.adopting.dataflow import holds, pairs, starts_from
from gatestream.export.adopting.slots import Slot, describe, is_forward, is_recurrent, slots, slots_of
from gatestream.export.adopting.starts import Start, start
from gatestream.export.adopting.states import Pair
from gatestream.export.adopting.views import moved
from gatestream.export.errors import AmbiguousError, NotStreamableError
from gatestream.export.graph.flow import made_by
from gatestream.export.graph.initializers import constant
from gatestream.export.graph.names import Names


def expose(model: ir.Model, settled: Collection[str] = ()) -> list[Pair]:
    """Make an input and an output of every state of the main graph that is not both already.

    Its start is what the graph starts it from now: zeros where the operator is told nothing, a constant, or what is
    computed from constants and shapes alone. An output that held nothing but such a state is dropped, unless there is
    no other; so is an input that nothing but a state started from.

    Args:
        model: changed.
        settled: inputs and outputs that somebody else has said to be a state; what starts from such an input is left.

    Returns:
        The new states, named after their nodes, in the order of these.

    Raises:
        NotStreamableError: a layer runs backwards; or a state starts from what is computed from an input.
    """
    shown = {pair.input for pair in pairs(model, settled)}
    shown |= {value for value in model.graph.inputs if value.name in settled}
    carried = slots(model)
    held = {output: holds(output, carried) for output in model.graph.outputs}
    starts = {slot: _start(model, slot) for slot in carried if not shown.intersection(starts_from(slot))}
    given = {value for slot in starts for value in starts_from(slot)}
    names = Names(model)
    new = [_expose(model, slot, found, names) for slot, found in starts.items() if found is not None]
    common.RemoveUnusedNodesPass()(model)
    for value in given:
        if not value.uses():
            model.graph.inputs.remove(value)
    _drop_outputs(model, [output for output, parts in held.items() if parts and parts <= starts.keys()], new)
    common.RemoveUnusedNodesPass()(model)
    return new


def _start(model: ir.Model, slot: Slot) -> Start | None:
    """What a state starts from; None: it is no state."""
    node = slot.node
    if is_recurrent(node) and not is_forward(node):
        raise NotStreamableError(f"{describe(node)} reads its input backwards, from a step that has not come yet")
    if slot.initial is None:
        return Start(np.zeros((1, 1, _hidden(node)), _dtype(slot)), 1)
    if given := starts_from(slot):
        return _given(slot, given)
    found = start(model, slot)
    return _of_one_row(slot, found) if found is not None and is_recurrent(node) else found


def _given(slot: Slot, given: list[ir.Value]) -> Start:
    """That of a state which is an input already, but no output: a session's first run takes zeros."""
    for value in given:
        if not _only_starts(value):
            raise NotStreamableError(
                f"{slot} is the input '{value.name}', which the graph uses otherwise too, and no output is what "
                "becomes of it; export the model with this state as an input and an output of its own"
            )
    if is_recurrent(slot.node):
        return Start(np.zeros((1, 1, _hidden(slot.node)), _dtype(slot)), 1)
    [value, *more] = given
    dims = list(value.shape or ())
    free = [axis for axis, dim in enumerate(dims) if not isinstance(dim, int)]
    if more or slot.initial is not value or value.shape is None or len(free) > 1:
        raise NotStreamableError(
            f"{slot} comes from the input '{value.name}' {dims}, and no output is what becomes of it; export the "
            "model with this state as an input and an output of its own"
        )
    sizes = [dim if isinstance(dim, int) else 1 for dim in dims]
    return Start(np.zeros(sizes, _dtype(slot)), free[0] if free else None)


def _only_starts(value: ir.Value) -> bool:
    """Whether a value is nothing but where something starts, and what shapes are taken from."""
    for use in value.uses():
        starts = any(use.idx == slot.input for slot in slots_of(use.node))
        handed_on = value in moved(use.node.outputs[0]) and all(map(_only_starts, use.node.outputs))
        if not (starts or handed_on or made_by(use.node.outputs[0], "Shape", "Size")):
            return False
    return not value.is_graph_output()


def _of_one_row(slot: Slot, found: Start) -> Start:
    """What an operator starts from, [1, 1, hidden]."""
    rows = found.value
    if rows.ndim != 3 or not np.array_equal(rows, np.broadcast_to(rows[:, :1], rows.shape), equal_nan=True):
        raise NotStreamableError(
            f"{slot} is a constant {list(rows.shape)} whose rows are not alike: each belongs to a session of its own; "
            "export the model with this state as an input and an output"
        )
    return Start(rows[:, :1], 1)


def _hidden(node: ir.Node) -> int:
    if "hidden_size" in node.attributes:
        return node.attributes["hidden_size"].as_int()
    R = node.inputs[2]
    # [directions, gates * hidden, hidden]; the quantised operator has it transposed.
    axis = 1 if node.domain == "com.microsoft" else 2
    size = R.shape[axis] if R is not None and R.shape is not None else None
    if not isinstance(size, int):
        raise AmbiguousError(f"{describe(node)} does not say how large its state is: no hidden_size, and R is computed")
    return size


def _dtype(slot: Slot) -> np.dtype[np.generic]:
    """Of a state's numbers."""
    known = [slot.initial, slot.final, slot.node.inputs[0]]
    found = next((value.dtype for value in known if value is not None and value.dtype is not None), ir.DataType.FLOAT)
    return found.numpy()


def _expose(model: ir.Model, slot: Slot, found: Start, names: Names) -> Pair:
    graph, node = model.graph, slot.node
    name = names.fresh(_called(slot))
    how = _said(slot)
    dims: list[int | str] = list(found.value.shape)
    if found.batch_axis is not None:
        dims[found.batch_axis] = _batch(node)
    kind = ir.TensorType(ir.DataType.from_numpy(found.value.dtype))
    value = ir.Value(name=name, shape=ir.Shape(dims), type=kind)
    graph.inputs.append(value)
    if slot.input >= len(node.inputs):
        node.resize_inputs(slot.input + 1)
    node.replace_input_with(slot.input, value)
    if slot.output >= len(node.outputs):
        node.resize_outputs(slot.output + 1)
    final = node.outputs[slot.output]
    final.shape, final.type = ir.Shape(dims), kind
    if not final.is_graph_output():
        final.name = names.fresh(f"{name}_next")
        graph.outputs.append(final)
    cell = node.name or "" if is_recurrent(node) else ""
    initial = found.value if found.value.any() else None
    return Pair(value, final, how, role=slot.role, batch_axis=found.batch_axis, initial=initial, cell=cell)


def _batch(node: ir.Node) -> str:
    """What the file calls the axis of rows, where a recurrent operator's input says it."""
    X = node.inputs[0] if is_recurrent(node) else None
    dim = X.shape[1] if X is not None and X.shape is not None and len(X.shape) == 3 else None
    return str(dim.value) if isinstance(dim, ir.SymbolicDim) and dim.value else "batch"


def _said(slot: Slot) -> str:
    value = slot.initial
    if value is None:
        was = "absent"
    elif value.is_graph_input():
        was = f"input '{value.name}', with no output"
    elif constant(value) is not None:
        was = "constant"
    else:
        was = "computed"
    return f"{slot}, which was {was}"


def _drop_outputs(model: ir.Model, held: list[ir.Value], new: list[Pair]) -> None:
    """Outputs that hold nothing but states which now have outputs of their own."""
    own = {pair.output for pair in new}
    if any(output not in own and output not in held for output in model.graph.outputs):
        for output in held:
            if output not in own:
                model.graph.outputs.remove(output)


def _called(slot: Slot) -> str:
    """What a state is called: "encoder.rnn.h" of the node "/encoder/rnn/LSTM"."""
    parts = [part for part in (slot.node.name or "").replace("/", ".").split(".") if part]
    if len(parts) > 1 and parts[-1].partition("_")[0] == slot.node.op_type:
        parts.pop()
    return ".".join([*(parts or [slot.node.op_type.lower()]), slot.letter])

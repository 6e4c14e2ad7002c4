"""Form `fused`: the structure of a model whose cells are LSTM operators."""

import numpy as np
import onnx_ir as ir

from gatestream.export.errors import StructureError
from gatestream.export.finder.ends import state_input, weights_above, weights_below
from gatestream.export.finder.structure import Cell, Gate, Structure, Weight
from gatestream.export.graph.flow import integer, label, made_by, name_of, operands, unstacked
from gatestream.export.graph.initializers import constant, stored
from gatestream.protos.roles import ONNX_ORDER, Array, unpack

_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


def find(model: ir.Model, nodes: list[ir.Node]) -> Structure:
    """Read the LSTM operators, and what the rest of the graph does with their states.

    Raises:
        StructureError: an operator is not the plain forward LSTM, its weights are no initializers, or the
            operators are not one above another.
    """
    for node in nodes:
        _check(node)
    stack = _stack(nodes)
    lengths = {_input(node, "sequence_lens") for node in stack}
    length = next(iter(lengths))
    if len(lengths) != 1 or not length.is_graph_input():
        raise StructureError(f"sequence_lens of the layers: {', '.join(map(label, lengths))}; expected one graph input")
    initial = [[_layer(node, _input(node, which)) for node in stack] for which in ("initial_h", "initial_c")]
    hidden, cell = (
        (state_input(kind, layers), _final(model, kind, [node.outputs[k] for node in stack]))
        for kind, layers, k in (("hidden", initial[0], 1), ("cell", initial[1], 2))
    )
    return Structure(
        fused=True,
        cells=tuple(_cell(node) for node in stack),
        hidden=hidden,
        cell=cell,
        length=name_of(length),
        activations={},
        below=weights_below(_input(stack[0], "X"), stack[0]),
        above=weights_above(model.graph.outputs, (hidden[1], cell[1]), stack[-1], stack[-1].outputs[:1]),
    )


def _input(node: ir.Node, which: str) -> ir.Value:
    k = _INPUTS.index(which)
    value = node.inputs[k] if k < len(node.inputs) else None
    if value is None:
        hint = ": 'length' is ignored" if which == "sequence_lens" else ""
        raise StructureError(f"LSTM '{node.name}' has no input {which}{hint}")
    return value


def _check(node: ir.Node) -> None:
    """The operator's own equations are those of the cell only with these attributes (ONNX operator LSTM)."""
    if len(node.inputs) > 7 and node.inputs[7] is not None:
        raise StructureError(f"LSTM '{node.name}' has peephole weights {label(node.inputs[7])}")
    for name, attribute in node.attributes.items():
        found = attribute.value
        if name == "direction":
            allowed = found == "forward"
        elif name == "activations":
            allowed = [str(item).lower() for item in attribute.as_strings()] == ["sigmoid", "tanh", "tanh"]
        elif name in ("layout", "input_forget"):
            allowed = found == 0
        else:
            allowed = name == "hidden_size"
        if not allowed:
            raise StructureError(
                f"LSTM '{node.name}' has {name} {found!r}; expected a forward LSTM, layout 0, its default "
                "activations, no clip, input and forget gate not coupled"
            )


def _stack(nodes: list[ir.Node]) -> list[ir.Node]:
    """The operators, lowest layer first: each takes the hidden states of the one below, and nothing else."""
    below = {node: _below(node) for node in nodes}
    lowest = [node for node in nodes if below[node] is None]
    if len(lowest) != 1:
        raise StructureError(f"{len(lowest)} LSTM operators take no other's output; expected one, the lowest")
    stack = lowest
    while len(stack) < len(nodes):
        above = [node for node in nodes if below[node] is stack[-1]]
        if len(above) != 1:
            raise StructureError(f"{len(above)} LSTM operators stand on LSTM '{stack[-1].name}', expected one")
        stack.append(above[0])
    return stack


def _below(node: ir.Node) -> ir.Node | None:
    squeeze = made_by(_input(node, "X"), "Squeeze")
    lstm = made_by(squeeze.inputs[0], "LSTM") if squeeze is not None else None
    return lstm if lstm is not None and squeeze is not None and squeeze.inputs[0] is lstm.outputs[0] else None


def _layer(node: ir.Node, initial: ir.Value) -> ir.Value:
    """The [batch, hidden] that was made the operator's [1, batch, hidden]."""
    unsqueeze = made_by(initial, "Unsqueeze")
    if unsqueeze is None:
        raise StructureError(f"{label(initial)}, from which LSTM '{node.name}' starts, is not a layer of a state")
    return operands(unsqueeze)[0]


def _final(model: ir.Model, kind: str, layers: list[ir.Value]) -> str:
    """The graph output that stacks what is left of each layer's state."""
    for output in model.graph.outputs:
        if made_by(output, "Concat", "Unsqueeze"):
            squeezes = [made_by(part, "Squeeze") for part in unstacked(output, axis=1)]
            if [squeeze and squeeze.inputs[0] for squeeze in squeezes] == layers:
                return name_of(output)
    raise StructureError(f"no graph output carries the {kind} state, layer by layer")


def _cell(node: ir.Node) -> Cell:
    W, R, B = (_weight(node, which) for which in "WRB")
    hidden = integer(node, "hidden_size", 0)
    w, r = (_packed(value, (1, 4 * hidden, None), np.float32, np.float16) for value in (W, R))
    b = _packed(B, (1, 8 * hidden), np.float32)
    input_biases, recurrent_biases = b[: 4 * hidden], b[4 * hidden :]
    ws, rs, bs = (unpack(array, ONNX_ORDER) for array in (w, r, input_biases + recurrent_biases))
    gates = {}
    for k, symbol in enumerate(ONNX_ORDER):
        rows, more = (f"[0, {(k + 4 * j) * hidden}:{(k + 4 * j + 1) * hidden}]" for j in (0, 1))
        gates[symbol] = Gate(
            symbol,
            "",
            Weight(name_of(W), rows, ws[symbol], _dtype(W)),
            Weight(name_of(R), rows, rs[symbol], _dtype(R)),
            Weight(name_of(B), f"{rows} + {more}", bs[symbol]),
        )
    h, c = _input(node, "initial_h"), _input(node, "initial_c")
    _, h_next, c_next = node.outputs
    x = _input(node, "X")
    return Cell(node.name or "", gates, name_of(x), name_of(h), name_of(c), name_of(h_next), name_of(c_next))


def _weight(node: ir.Node, which: str) -> ir.Value:
    value = _input(node, which)
    weight = stored(value)
    if weight is None:
        raise StructureError(
            f"LSTM '{node.name}' takes {label(value)}, which is computed at run time; expected a plain initializer"
        )
    return weight


def _dtype(weight: ir.Value) -> str:
    array = constant(weight)
    assert array is not None  # `stored` returned it
    return str(array.dtype)


def _packed(value: ir.Value, shape: tuple[int | None, ...], *dtypes: type[np.floating]) -> Array:
    array = constant(value)
    assert array is not None  # `stored` returned it
    fits = array.ndim == len(shape) and all(a == b or b is None for a, b in zip(array.shape, shape, strict=True))
    if array.dtype not in dtypes or not fits:
        expected = ["*" if size is None else size for size in shape]
        raise StructureError(f"'{value.name}' is {array.dtype} {list(array.shape)}, expected float32 {expected}")
    packed: Array = array.astype(np.float32, copy=False)[0]
    return packed

"""Form `gates`: the structure of a model whose cells stand in the body of a Scan."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gatestream.export.errors import StructureError
from gatestream.export.finder.ends import state_input, weights_above, weights_below
from gatestream.export.finder.recurrence import LoopCell, LoopGate, Recurrence, read
from gatestream.export.finder.structure import Cell, Gate, Structure, Weight
from gatestream.export.graph.flow import made_by, name_of, operands, unstacked
from gatestream.export.graph.initializers import constant
from gatestream.protos.roles import Array


def find(model: ir.Model, scan: ir.Node) -> Structure:
    """Find the cells in `scan`, and what the rest of the graph does with their states and gates.

    Raises:
        StructureError: see `recurrence.read`; or a state does not come from a graph input and go to a graph
            output, layer by layer.
    """
    recurrence = read(scan)
    outputs = _outputs(model, recurrence)
    if missing := {"hidden", "cell"} - set(outputs):
        raise StructureError(f"no graph output carries the {' and the '.join(sorted(missing))} state")
    top = recurrence.outputs(recurrence.cells[-1].hidden.after)
    return Structure(
        fused=False,
        cells=tuple(_cell(scan, cell) for cell in recurrence.cells),
        hidden=(state_input("hidden", [cell.hidden.initial for cell in recurrence.cells]), outputs["hidden"]),
        cell=(state_input("cell", [cell.cell.initial for cell in recurrence.cells]), outputs["cell"]),
        length=name_of(recurrence.length),
        activations={symbol: outputs[symbol] for symbol in "ifgo" if symbol in outputs},
        below=weights_below(recurrence.below, scan),
        above=weights_above(model.graph.outputs, outputs.values(), scan, top),
    )


def _outputs(model: ir.Model, recurrence: Recurrence) -> dict[str, str]:
    """Which graph output carries what: "hidden", "cell", and the gates by symbol."""
    kinds: dict[ir.Value, tuple[str, int]] = {}
    for layer, cell in enumerate(recurrence.cells):
        kinds[cell.hidden.final] = ("hidden", layer)
        kinds[cell.cell.final] = ("cell", layer)
        for symbol, gate in cell.gates.items():
            kinds |= dict.fromkeys(recurrence.outputs(gate.activation), (symbol, layer))
    found: dict[str, str] = {}
    for output in model.graph.outputs:
        parts = [kinds.get(part) for part in _parts(output)]
        known = [part for part in parts if part is not None]
        if not known:
            continue
        if len({kind for kind, _ in known}) != 1 or [part and part[1] for part in parts] != list(
            range(len(recurrence.cells))
        ):
            shown = ", ".join(f"{part[0]} of layer {part[1]}" if part else "something else" for part in parts)
            raise StructureError(f"output '{output.name}' is made of {shown}; expected one kind, layer by layer")
        if known[0][0] in found:
            raise StructureError(f"outputs '{found[known[0][0]]}' and '{output.name}' are both {known[0][0]}")
        found[known[0][0]] = name_of(output)
    return found


def _parts(output: ir.Value) -> tuple[ir.Value, ...]:
    """The layers of a graph output: [batch, layers, hidden] or, time and batch swapped, a gate's."""
    if transpose := made_by(output, "Transpose"):
        stack = operands(transpose)[0]
        if list(transpose.attributes["perm"].as_ints()) != [1, 0, 2, 3]:
            return (stack,)
        return unstacked(stack, axis=2)
    if made_by(output, "Concat", "Unsqueeze"):
        return unstacked(output, axis=1)
    return (output,)


def _cell(scan: ir.Node, cell: LoopCell) -> Cell:
    return Cell(
        node=scan.name or "",
        gates={symbol: _gate(symbol, gate) for symbol, gate in cell.gates.items()},
        x=name_of(cell.x),
        h=name_of(cell.hidden.before),
        c=name_of(cell.cell.before),
        h_next=name_of(cell.hidden.after),
        c_next=name_of(cell.cell.after),
    )


def _gate(symbol: str, gate: LoopGate) -> Gate:
    W, R = (
        Weight(name_of(product.weight), "", product.array, str(_numbers(product.weight).dtype))
        for product in (gate.W, gate.R)
    )
    biases = [_bias(value) for value in gate.b]
    b = Weight(" + ".join(map(name_of, gate.b)), "", np.sum(biases, axis=0, dtype=np.float32))
    hidden = len(R.array)
    for weight, shape in ((W, (hidden, W.array.shape[-1])), (R, (hidden, hidden)), (b, (hidden,))):
        if weight.array.shape != shape:
            raise StructureError(f"'{weight}' is {list(weight.array.shape)}, expected {list(shape)}")
    return Gate(symbol, name_of(gate.activation), W, R, b)


def _bias(value: ir.Value) -> Array:
    array = _numbers(value)
    if array.dtype != np.float32:
        raise StructureError(f"'{value.name}' is {array.dtype}, expected float32")
    return array.astype(np.float32, copy=False)


def _numbers(value: ir.Value) -> NDArray[np.generic]:
    array = constant(value)
    assert array is not None  # `affine` took nothing else for a weight or a bias
    return array

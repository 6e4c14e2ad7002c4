"""Form `gates` to form `fused`: the Scan replaced by one ONNX LSTM operator for each layer."""

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.passes import InPlacePass, PassResult, PostconditionError, PreconditionError

from gatestream.export.finder import finder
from gatestream.export.finder.recurrence import Recurrence, read
from gatestream.export.finder.structure import Cell, Structure
from gatestream.export.graph.initializers import store
from gatestream.protos.roles import ONNX_ORDER, Array, pack


class Fuse(InPlacePass):
    """Pack each cell's weights in the operator's order and let the operator take the place of its equations.

    The encoder, the head and the states outside stay as they are; the gates' outputs go.
    """

    def requires(self, model: ir.Model) -> None:
        """The cells stand in a Scan."""
        if finder.find(model).fused:
            raise PreconditionError("the cells are LSTM operators already")

    def call(self, model: ir.Model) -> PassResult:
        """Replace."""
        structure = finder.find(model)
        recurrence = read(next(node for node in model.graph if node.op_type == "Scan"))
        for output in list(model.graph.outputs):
            if output.name in structure.activations.values():
                model.graph.outputs.remove(output)
        _replace(model.graph, recurrence, structure)
        common.RemoveUnusedNodesPass()(model)
        # What the body of a removed Scan reads still counts as read.
        recurrence.body.outputs.clear()
        recurrence.body.remove(list(recurrence.body), safe=True)
        common.RemoveUnusedNodesPass()(model)
        common.NameFixPass()(model)
        return PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """The cells are LSTM operators, and nothing of the Scan is left."""
        if not finder.find(model).fused or any(node.op_type == "Scan" for node in model.graph):
            raise PostconditionError("the Scan is still there")


def _replace(graph: ir.Graph, recurrence: Recurrence, structure: Structure) -> None:
    scan = recurrence.scan
    direction_axis = store(graph, "lstm.direction_axis", np.array([1], np.int64))
    state_axis = store(graph, "lstm.state_axis", np.array([0], np.int64))
    below = recurrence.below  # [time, batch, inputs]
    for layer, (cell, loop) in enumerate(zip(structure.cells, recurrence.cells, strict=True)):
        prefix = f"cells.{layer}."
        initial = [
            _unary("Unsqueeze", state.initial, state_axis, f"{prefix}{letter}_lstm")  # [1, batch, hidden]
            for letter, state in (("h", loop.hidden), ("c", loop.cell))
        ]
        lstm = ir.node(
            "LSTM",
            [
                below,
                *(store(graph, f"{prefix}lstm.{name}", array) for name, array in _packed(cell).items()),
                recurrence.length,
                *(node.outputs[0] for node in initial),
            ],
            {"hidden_size": len(cell.gates["i"].b.array)},
            num_outputs=3,
            name=f"{prefix}lstm",
        )
        Y, Y_h, Y_c = lstm.outputs
        Y.name, Y_h.name, Y_c.name = f"{prefix}Y", f"{prefix}Y_h", f"{prefix}Y_c"
        hs = _unary("Squeeze", Y, direction_axis, f"{prefix}hs")  # [time, batch, hidden]
        finals = [
            (loop.hidden.final, _unary("Squeeze", Y_h, state_axis, f"{prefix}h_left")),  # [batch, hidden]
            (loop.cell.final, _unary("Squeeze", Y_c, state_axis, f"{prefix}c_left")),
        ]
        graph.insert_before(scan, [*initial, lstm, hs, *(node for _, node in finals)])
        for old, new in [*finals, *((old, hs) for old in recurrence.outputs(loop.hidden.after))]:
            ir.convenience.replace_all_uses_with(old, new.outputs[0], replace_graph_outputs=True)
        below = hs.outputs[0]


def _packed(cell: Cell) -> dict[str, Array]:
    """W [1, 4 * hidden, inputs], R [1, 4 * hidden, hidden] and B [1, 8 * hidden], as the operator takes them."""
    W, R, b = (
        pack({symbol: getattr(gate, name).array for symbol, gate in cell.gates.items()}, ONNX_ORDER)
        for name in ("W", "R", "b")
    )
    # The operator adds a bias to each product; the cell has one for both.
    return {"W": W[None], "R": R[None], "B": np.concatenate([b, np.zeros_like(b)])[None]}


def _unary(operator: str, value: ir.Value, axes: ir.Value, name: str) -> ir.Node:
    node = ir.node(operator, [value, axes])
    node.outputs[0].name = name
    return node

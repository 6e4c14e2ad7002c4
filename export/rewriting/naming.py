"""Name the tensors of the cells after the equations, for whoever opens the file in a viewer."""

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from gatestream.export.finder import finder
from gatestream.export.finder.recurrence import Recurrence, read


class NameCells(InPlacePass):
    """In a Scan, layer 0's tensors become `cells.0.x`, `.h`, `.c`, `.i`, `.f`, `.g`, `.o`, `.c_next`, `.h_next`.

    What the Scan carries from step to step, which is that or, for a row that has ended, the state before,
    becomes `cells.0.h_carried` and `cells.0.c_carried`; what is left at the end `cells.0.h_final` and
    `cells.0.c_final`.
    """

    def requires(self, model: ir.Model) -> None:
        """The cells can be found."""
        finder.find(model)

    def call(self, model: ir.Model) -> PassResult:
        """Rename."""
        scan = next(node for node in model.graph if node.op_type == "Scan")
        recurrence = read(scan)
        scan.name = "cells"
        recurrence.body.name = "step"
        for layer in range(len(recurrence.cells)):
            _name_layer(recurrence, layer)
        return PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """The cells can still be found."""
        finder.find(model)


def _name_layer(recurrence: Recurrence, layer: int) -> None:
    cell = recurrence.cells[layer]
    prefix = f"cells.{layer}."
    if layer == 0:
        cell.x.name = prefix + "x"
        if not recurrence.below.is_graph_input():
            recurrence.below.name = prefix + "x_steps"
    for symbol, gate in cell.gates.items():
        gate.activation.name = prefix + symbol
        for outer in recurrence.outputs(gate.activation):
            outer.name = prefix + symbol + "_steps"
    for letter, state in (("h", cell.hidden), ("c", cell.cell)):
        state.before.name = prefix + letter
        state.after.name = prefix + letter + "_next"
        state.initial.name = prefix + letter + "_initial"
        if not state.final.is_graph_output():
            state.final.name = prefix + letter + "_final"
        carried = recurrence.body.outputs[recurrence.body.inputs.index(state.before)]
        carried.name = prefix + letter + "_carried"
    for outer in recurrence.outputs(cell.hidden.after):
        outer.name = prefix + "h_steps"

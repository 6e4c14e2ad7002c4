"""An LSTM, GRU or RNN operator of any graph to its named equations, in an ONNX Scan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gatestream.export.finder.operators import Operator, read
from gatestream.export.finder.scopes import Scopes
from gatestream.export.graph.edit import replace
from gatestream.export.graph.flow import made_by
from gatestream.export.graph.initializers import integers
from gatestream.export.rewriting.equations import CellNames, Equations


@dataclass(frozen=True, slots=True)
class Unfused:
    """What became of an operator.

    Attributes:
        operator: that was there.
        scan: what is there now.
        gates: by symbol, the Scan's outputs with each gate's activations, [batch, time, hidden]; of an RNN none.
    """

    operator: Operator
    scan: ir.Node
    gates: Mapping[str, ir.Value]


def unfuse(model: ir.Model, node: ir.Node, name: str) -> Unfused:
    """Let the equations take an operator's place.

    They compute what the operator does, peepholes, clip, coupled gates, activations, lengths and layout included. Rows
    of a gate from `sequence_lens` on hold nothing of meaning.

    Args:
        model: it is changed.
        node: the operator, in any of the model's graphs.
        name: what the cell's tensors and weights are named after.

    Raises:
        StructureError: see `operators.read`.
    """
    return _Writer(model, name, read(node, Scopes(model).resolve)).write()


class _Writer:
    def __init__(self, model: ir.Model, name: str, operator: Operator) -> None:
        graph = operator.node.graph
        assert graph is not None  # the operator stands in one
        self._graph, self._weights, self._name, self._operator = graph, model.graph, name, operator
        self._names = CellNames(model, name)
        self._x = operator.node.inputs[0]
        assert self._x is not None  # ONNX requires it
        self._dtype = operator.W.array.dtype
        self._direction = 1 if operator.layout == 0 else 2
        """The axis of Y that says which direction it is of, and has size 1; of states it is `layout`."""

    def write(self) -> Unfused:
        operator, node = self._operator, self._operator.node
        length = operator.input("sequence_lens")
        live_rows = self._live_rows(length) if length is not None else None
        letters = "hc" if operator.kind == "LSTM" else "h"
        initial = [self._initial(letter, live_rows) for letter in letters]
        scan, gates = self._scan(letters, initial, length)
        finals, ys = scan.outputs[: len(letters)], scan.outputs[len(letters) + (length is not None)]
        for k, (value, axis) in enumerate([(ys, self._direction), *((final, operator.layout) for final in finals)]):
            if k < len(node.outputs) and (node.outputs[k].uses() or node.outputs[k].is_graph_output()):
                self._replace(node.outputs[k], value, axis)
        given = [value.producer() for value in node.inputs if value is not None]
        self._graph.remove(node, safe=True)
        for each in dict.fromkeys(given):  # what only gave the states their axis of directions
            if each is not None and each.op_type == "Unsqueeze" and each.graph is self._graph:
                wide = each.outputs[0]
                if not wide.uses() and not wide.is_graph_output():
                    self._graph.remove(each, safe=True)
        return Unfused(operator, scan, gates)

    def _scan(
        self, letters: str, initial: Sequence[ir.Value], length: ir.Value | None
    ) -> tuple[ir.Node, dict[str, ir.Value]]:
        operator, name = self._operator, self._name
        states = [self._inside(letter, (None, operator.hidden)) for letter in letters]
        x = self._inside("x", (None, operator.W.array.shape[2]))
        equations = Equations(self._weights, self._names, operator)
        step = equations.step(x, states)
        carried, h, counting = list(step.states), step.states[0], []
        initial, inputs, counted = list(initial), [*states], []
        if length is not None:
            t = ir.Value(name=self._names.fresh("t"), shape=ir.Shape([]), type=ir.TensorType(ir.DataType.INT32))
            less = equations.op("Less", [t, length], "less")
            live = equations.op("Unsqueeze", [less, self._axes(1)], "live")
            carried = [
                equations.op("Where", [live, after, before], f"{letter}_carried")
                for letter, after, before in zip(letters, step.states, states, strict=True)
            ]
            h = equations.op("Where", [live, h, self._number("zero", np.array(0, self._dtype))], "y")
            counting = [equations.op("Add", [t, self._number("t_one", np.array(1, np.int32))], "t_next")]
            inputs, counted = [*inputs, t], [self._number("t_initial", np.array(0, np.int32))]
        elif h in carried:
            # A graph's output stands in it once.
            h = equations.op("Identity", [h], "y")
        outputs = [*carried, *counting, h, *step.gates.values()]
        body = ir.Graph(
            [*inputs, x], outputs, nodes=equations.nodes, name=f"{name}.step", opset_imports=self._graph.opset_imports
        )
        attributes: dict[str, object] = {"body": body, "num_scan_inputs": 1}
        if operator.layout:
            attributes["scan_input_axes"] = [1]
        attributes["scan_output_axes"] = [operator.layout, *[1] * len(step.gates)]
        assert self._x is not None
        scan = ir.node(
            "Scan",
            [*initial, *counted, self._x],
            attributes,  # type: ignore[arg-type]  # a Graph is one of the kinds
            num_outputs=len(outputs),
            name=name,
        )
        names = [f"{letter}_final" for letter in letters] + ["t_final"] * len(counting) + ["hs"]
        for value, called in zip(scan.outputs, [*names, *step.gates], strict=True):
            value.name = self._names.fresh(called if called not in step.gates else f"{called}_steps")
            value.type = ir.TensorType(ir.DataType.INT32) if called == "t_final" else self._type
        self._graph.insert_before(operator.node, scan)
        gates = dict(zip(step.gates, scan.outputs[len(names) :], strict=True))
        return scan, gates

    @property
    def _type(self) -> ir.TensorType:
        return ir.TensorType(ir.DataType.from_numpy(self._dtype))

    def _inside(self, name: str, shape: tuple[int | None, ...]) -> ir.Value:
        return ir.Value(name=self._names.fresh(name), shape=ir.Shape(shape), type=self._type)

    def _live_rows(self, length: ir.Value) -> ir.Value:
        """Which rows have any step, [batch, 1]: the operator zeroes the states of the others."""
        some = self._before("Greater", [length, self._number("t_initial", np.array(0, np.int32))], "some")
        return self._before("Unsqueeze", [some, self._axes(1)], "some_rows")

    def _initial(self, letter: str, live_rows: ir.Value | None) -> ir.Value:
        """What a state starts from, [batch, hidden]."""
        value = self._operator.input(f"initial_{letter}")
        layout = self._operator.layout
        if value is None:
            return self._zeros(letter)
        unsqueeze = made_by(value, "Unsqueeze")
        if unsqueeze is not None and integers(unsqueeze.inputs[1]) == (layout,) and unsqueeze.inputs[0] is not None:
            initial = unsqueeze.inputs[0]
        else:
            initial = self._before("Squeeze", [value, self._axes(layout)], f"{letter}_initial")
        if live_rows is None:
            return initial
        zero = self._number("zero", np.array(0, self._dtype))
        return self._before("Where", [live_rows, initial, zero], f"{letter}_started")

    def _zeros(self, letter: str) -> ir.Value:
        assert self._x is not None
        batch_axis = 1 - self._operator.layout
        batch = self._before("Shape", [self._x], f"{letter}_rows", start=batch_axis, end=batch_axis + 1)
        hidden = self._number("hidden", np.array([self._operator.hidden], np.int64))
        shape = self._before("Concat", [batch, hidden], f"{letter}_shape", axis=0)
        return self._before("Expand", [self._number("zero", np.array(0, self._dtype)), shape], f"{letter}_initial")

    def _replace(self, old: ir.Value, new: ir.Value, axis: int) -> None:
        """Put `new` where `old`, which has one more `axis`, was; what only takes that axis off again goes."""
        for use in list(old.uses()):
            squeeze = use.node
            if made_by(squeeze.outputs[0], "Squeeze") and integers(squeeze.inputs[1]) == (axis,):
                replace(squeeze.outputs[0], new)
                assert squeeze.graph is not None  # it uses what is in one
                squeeze.graph.remove(squeeze, safe=True)
        if old.uses() or old.is_graph_output():
            replace(old, self._before("Unsqueeze", [new, self._axes(axis)], f"axis_{axis}_wide"))

    def _before(self, operator: str, inputs: Sequence[ir.Value], name: str, **attributes: int) -> ir.Value:
        """Another node in front of the operator."""
        called = self._names.fresh(name)
        node = ir.node(operator, inputs, attributes, name=called)
        node.outputs[0].name = called
        self._graph.insert_before(self._operator.node, node)
        return node.outputs[0]

    def _axes(self, axis: int) -> ir.Value:
        return self._number(f"axis_{axis}", np.array([axis], np.int64))

    def _number(self, name: str, number: NDArray[Any]) -> ir.Value:
        return self._names.stored(self._weights, name, number)

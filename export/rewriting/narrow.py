"""Weights stored in fewer bits: what `formats` says of arrays, done to a graph."""

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass, PassResult, PostconditionError, PreconditionError

from gatestream.export.artifact import OUTSIDE_CELLS
from gatestream.export.finder import finder
from gatestream.export.finder.products import Product
from gatestream.export.finder.recurrence import LoopCell, LoopGate, read
from gatestream.export.formats import LEAST, ZERO, Precision, halved, quantised
from gatestream.export.graph.flow import name_of
from gatestream.export.graph.initializers import TRANSPOSED, constant, store
from gatestream.protos.roles import BY_SYMBOL
from gatestream.protos.weights import STEP


def narrow(model: ir.Model, precision: Precision) -> None:
    """Store a model's weights, float32 until now, as `precision`."""
    if precision == "float16":
        HalveWeights()(model)
    elif precision == "int8":
        QuantiseCells()(model)


class HalveWeights(InPlacePass):
    """Store the matrices of cells, encoder and head as float16, and cast them to float32.

    An initializer keeps its name; what the cast makes of it is `cells.0.forget_gate.R.float32`. onnxruntime casts
    once, when it loads the model.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Halve."""
        cells = finder.find(model).cells
        names = {weight.initializer for cell in cells for gate in cell.gates.values() for weight in (gate.W, gate.R)}
        first = model.graph[0]
        for name, value in model.graph.initializers.items():
            array = constant(value)
            if array is not None and (name in names or (name.startswith(OUTSIDE_CELLS) and array.ndim == 2)):
                model.graph.insert_before(first, _halved(name, value, array.astype(np.float32, copy=False)))
        return PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """The gates are found, with weights of float16."""
        _check_stored(model, "float16")


def _halved(name: str, value: ir.Value, array: NDArray[np.float32]) -> ir.Node:
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{name}.cast")
    wide = cast.outputs[0]
    wide.name, wide.shape, wide.type = f"{name}.float32", value.shape, ir.TensorType(ir.DataType.FLOAT)
    for user, index in list(value.uses()):
        if user is not cast:
            user.replace_input_with(index, wide)
    value.const_value = ir.Tensor(halved(name, array), name=name)
    value.type = ir.TensorType(ir.DataType.FLOAT16)
    return cast


class QuantiseCells(InPlacePass):
    """Store the matrices of the cells as int8, and round what they multiply.

    `cells.0.forget_gate.R` becomes `cells.0.forget_gate.R.T`, int8 [inputs, hidden], and
    `cells.0.forget_gate.R.scale`. Only ONNX's own operators are used, and the four gates stay apart.
    """

    def requires(self, model: ir.Model) -> None:
        """The cells are equations in a Scan."""
        if finder.find(model).fused:
            raise PreconditionError("the cells are LSTM operators")

    def call(self, model: ir.Model) -> PassResult:
        """Quantise."""
        recurrence = read(next(node for node in model.graph if node.op_type == "Scan"))
        writer = _Writer(model.graph, recurrence.body)
        for layer, cell in enumerate(recurrence.cells):
            writer.cell(layer, cell)
        recurrence.body.sort()
        common.RemoveUnusedNodesPass()(model)
        return PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """The gates are found, with weights of int8."""
        _check_stored(model, "int8")


def _check_stored(model: ir.Model, dtype: str) -> None:
    for cell in finder.find(model).cells:
        for gate in cell.gates.values():
            for weight in (gate.W, gate.R):
                if weight.dtype != dtype:
                    raise PostconditionError(f"'{weight.initializer}' is {weight.dtype} still")


class _Writer:
    """Writes the equations of int8 into the body of a Scan."""

    def __init__(self, graph: ir.Graph, body: ir.Graph) -> None:
        self._graph, self._body = graph, body
        self._step = store(graph, "rounding.step", np.array(STEP))
        self._zero = store(graph, "rounding.zero", np.array(ZERO))
        self._least = store(graph, "rounding.least", np.array(LEAST))
        self._axis = store(graph, "rounding.axis", np.array([-1], np.int64))

    def cell(self, layer: int, cell: LoopCell) -> None:
        x, top = self._ranged(cell.x, f"cells.{layer}.x") if layer == 0 else (cell.x, None)
        x = self._rounded(x, f"cells.{layer}.x")
        h = self._rounded(cell.hidden.before, f"cells.{layer}.h")
        for symbol, gate in cell.gates.items():
            self._gate(f"cells.{layer}.{BY_SYMBOL[symbol].module}", gate, x, top, h)

    def _gate(self, prefix: str, gate: LoopGate, x: ir.Value, top: ir.Value | None, h: ir.Value) -> None:
        feed = self._product(f"{prefix}.W", gate.W, x)
        if top is not None:
            feed = self._node("Mul", [feed, top], f"{prefix}.Wx_ranged")
        total = self._node("Add", [self._product(f"{prefix}.R", gate.R, h), feed], f"{prefix}.sum")
        for k, bias in enumerate(gate.b):
            total = self._node("Add", [total, bias], f"{prefix}.biased_{k}")
        node = gate.activation.producer()
        assert node is not None  # it was found to be a Sigmoid or Tanh
        node.replace_input_with(0, total)

    def _ranged(self, x: ir.Value, prefix: str) -> tuple[ir.Value, ir.Value]:
        """Each row of `x` divided by its largest number, and that number, [batch, 1]."""
        size = self._node("Abs", [x], f"{prefix}_abs")
        largest = self._node("ReduceMax", [size, self._axis], f"{prefix}_largest", keepdims=1)
        top = self._node("Max", [largest, self._least], f"{prefix}_range")
        return self._node("Div", [x, top], f"{prefix}_ranged"), top

    def _rounded(self, value: ir.Value, prefix: str) -> ir.Value:
        return self._node("QuantizeLinear", [value, self._step, self._zero], f"{prefix}_rounded")

    def _product(self, name: str, product: Product, rounded: ir.Value) -> ir.Value:
        whole, scale = quantised(name_of(product.weight), product.array)
        weight = store(self._graph, f"{name}{TRANSPOSED}", whole.T)
        found = self._node("MatMulInteger", [rounded, weight, self._zero], f"{name}_whole")
        found = self._node("Cast", [found], f"{name}_float", to=ir.DataType.FLOAT)
        return self._node("Mul", [found, store(self._graph, f"{name}.scale", scale)], f"{name}_product")

    def _node(self, operator: str, inputs: list[ir.Value], name: str, **attributes: int) -> ir.Value:
        node = ir.node(operator, inputs, attributes)
        node.outputs[0].name = name
        self._body.append(node)
        return node.outputs[0]

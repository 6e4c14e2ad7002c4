"""Cells that are equations become operators, with the numbers that they had."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
import pytest
from hypothesis import assume, given, settings
from onnx import TensorProto, helper, numpy_helper

from gatestream.export.errors import StructureError
from gatestream.export.finder.survey import survey
from gatestream.export.rewriting.fuse_cells import fuse_cell
from gatestream.export.rewriting.reform import reform
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.export.rewriting.test_unfuse import cases, squeezed, unfused
from tests.support import recurrent
from tests.support.recurrent import Cell, Numbers

RNG = np.random.default_rng(0)


def fused(model: onnx.ModelProto) -> onnx.ModelProto:
    """All cells of a model that are equations to operators, its gates put out no more."""
    made = ir.from_proto(model)
    for value in list(made.graph.outputs):
        if value.name is not None and value.name.startswith("gate."):
            made.graph.outputs.remove(value)
    common.ShapeInferencePass()(made)
    for cell in reversed(survey(made)):
        assert cell.operator is None
        fuse_cell(made, cell, "rnn")
    common.RemoveUnusedNodesPass()(made)
    result = ir.to_proto(made)
    onnx.checker.check_model(result, full_check=True)
    return result


@settings(max_examples=80, deadline=None)
@given(cases())
def test_there_and_back(case: tuple[Cell, int, dict[str, Any]]) -> None:
    cell, layout, given_ = case
    assume(cell.kind != "RNN")
    original = recurrent.model(cell, **given_["how"])
    back = fused(unfused(original))
    assert [node.op_type for node in back.graph.node if node.op_type in (cell.kind, "Scan")] == [cell.kind]
    found = squeezed(recurrent.outputs(back, given_["feed"]), layout)
    truth, tolerance = recurrent.allowed(cell, given_["x"], given_["states"], given_["ends"])
    # Activations without a bound may leave what float32 can hold.
    assume(all(np.abs(values).max(initial=0) < 1e6 for values in truth.values()))
    for name, values in found.items():
        np.testing.assert_allclose(values, truth[name], rtol=0, atol=tolerance[name], err_msg=name)


# ---- equations as others write them ----


class Body:
    """The body of a Scan over time: one step of cells that are written as torch's exporter writes them."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, Numbers] = {}

    def op(self, operator: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> str:
        names = list(outputs) or [f"t{len(self.nodes)}"]
        self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names[0]

    def weight(self, array: Numbers) -> str:
        name = f"w{len(self.tensors)}"
        self.tensors[name] = np.ascontiguousarray(array)
        return name

    def sums(self, cell: Cell, operand: str, matrix: Numbers, bias: Numbers | None) -> list[str]:
        product = [operand, self.weight(matrix), *([self.weight(bias)] if bias is not None else [])]
        total = self.op("Gemm", *product, transB=1)
        names = [f"{total}_{gate}" for gate in recurrent.GATES[cell.kind]]
        self.op("Split", total, outputs=names, axis=1, num_outputs=len(names))
        return names

    def cell(self, cell: Cell, x: str, states: Sequence[str], after: Sequence[str]) -> None:
        half = len(cell.B) // 2 if cell.B is not None else 0
        biases = (None, None) if cell.B is None else (cell.B[:half], cell.B[half:])
        fed = self.sums(cell, x, cell.W, biases[0])
        back = self.sums(cell, states[0], cell.R, biases[1])
        total = dict(zip(recurrent.GATES[cell.kind], zip(fed, back, strict=True), strict=True))

        def gate(symbol: str, function: str = "Sigmoid") -> str:
            return self.op(function, self.op("Add", *total[symbol]))

        if cell.kind == "LSTM":
            i, f, g, o = gate("i"), gate("f"), gate("g", "Tanh"), gate("o")
            self.op("Add", self.op("Mul", f, states[1]), self.op("Mul", i, g), outputs=[after[1]])
            self.op("Mul", o, self.op("Tanh", after[1]), outputs=[after[0]])
        else:
            r, z = gate("r"), gate("z")
            n = self.op("Tanh", self.op("Add", total["n"][0], self.op("Mul", r, total["n"][1])))
            self.op("Add", self.op("Mul", self.op("Sub", states[0], n), z), n, outputs=[after[0]])


def scanned(cells: Sequence[Cell], *, head: bool) -> tuple[onnx.ModelProto, pb.ModelSpec]:
    """Contract 2: a Scan over time, whose body has cells one above another, and where asked a head."""
    model, spec = recurrent.streaming(cells)
    body = Body()
    below = "x_t"
    inputs: list[str] = []
    carried: list[str] = []
    for k, cell in enumerate(cells):
        states = [f"cell{k}_{letter}" for letter in cell.states]
        body.cell(cell, below, [f"{each}_in" for each in states], [f"{each}_out" for each in states])
        below, inputs, carried = f"cell{k}_h_out", inputs + states, carried + states
    y = body.op("Relu" if head else "Identity", below)
    kind = TensorProto.FLOAT

    def info(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, ["batch", None])

    graph = helper.make_graph(
        body.nodes,
        "step",
        [*(info(f"{each}_in") for each in inputs), info("x_t")],
        [*(info(f"{each}_out") for each in carried), info(y)],
    )
    scan = helper.make_node(
        "Scan",
        [*inputs, "x"],
        [*(f"{each}_next" for each in carried), "y"],
        "steps",
        body=graph,
        num_scan_inputs=1,
        scan_input_axes=[1],
        scan_output_axes=[1],
    )
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.append(scan)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in body.tensors.items())
    onnx.checker.check_model(model, full_check=True)
    del spec.cells[:]
    return model, spec


STACKS = {
    "lstm": [recurrent.random("LSTM", 3, 4, RNG)],
    "square lstm": [recurrent.random("LSTM", 4, 4, RNG)],
    "gru": [recurrent.random("GRU", 3, 4, RNG).with_options(linear_before_reset=True)],
    "two": [
        recurrent.random("LSTM", 3, 4, RNG),
        recurrent.random("GRU", 4, 4, RNG, bias=False).with_options(linear_before_reset=True),
    ],
}


def sample(spec: pb.ModelSpec) -> dict[str, Numbers]:
    rng = np.random.default_rng(1)
    feed = {"x": rng.normal(size=(3, 4, *spec.inputs[0].shape)).astype(np.float32)}
    return feed | {state.input: rng.uniform(-1, 1, (3, *state.shape)).astype(np.float32) for state in spec.states}


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("stack", STACKS)
def test_cells_in_a_scan(stack: str, head: bool) -> None:
    cells = STACKS[stack]
    original, spec = scanned(cells, head=head)
    model = ir.from_proto(original)
    reform(model, spec, "fused")
    made = ir.to_proto(model)
    onnx.checker.check_model(made, full_check=True)
    kinds = [node.op_type for node in model.graph.all_nodes() if node.op_type in ("Scan", "LSTM", "GRU")]
    over = len(cells) == 1 and not head
    assert kinds == ([cells[0].kind] if over else ["Scan", *(cell.kind for cell in cells)])
    assert "Sigmoid" not in {node.op_type for node in model.graph.all_nodes()}
    assert spec.form == pb.FORM_FUSED
    feed = sample(spec)
    found = recurrent.outputs(made, feed)
    for name, values in recurrent.outputs(original, feed).items():
        np.testing.assert_allclose(found[name], values, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("by_way_of", ["", "fused"])
@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("stack", STACKS)
def test_their_gates(stack: str, head: bool, by_way_of: str) -> None:
    """Put out where the equations stand, and where operators inside a Scan became equations again."""
    cells = STACKS[stack]
    original, spec = scanned(cells, head=head)
    model = ir.from_proto(original)
    if by_way_of:
        reform(model, spec, "fused")
    reform(model, spec, "gates")
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    feed = sample(spec)
    found = recurrent.outputs(ir.to_proto(model), feed)
    below = feed["x"].transpose(1, 0, 2)
    assert len(spec.gates) == sum(len(recurrent.GATES[cell.kind]) for cell in cells)
    for k, cell in enumerate(cells):
        states = [feed[f"cell{k}_{letter}"] for letter in cell.states]
        truth, tolerance = recurrent.allowed(cell, below, states)
        below = truth["y"].astype(np.float32)
        for gate in spec.gates:
            if gate.cell == spec.cells[k].name:
                assert list(gate.shape) == [cell.hidden]
                bound = 1e-6 + 4 * tolerance[gate.symbol]
                np.testing.assert_allclose(found[gate.output], truth[gate.symbol], rtol=0, atol=bound)
    assert {gate.cell for gate in spec.gates} == {each.name for each in spec.cells}


def test_what_no_operator_computes_is_refused() -> None:
    """A hidden state that is projected: the finder sees the cell, ONNX has no such operator."""
    cell = recurrent.random("LSTM", 3, 4, RNG)
    original, spec = scanned([cell], head=False)
    body = next(attribute.g for attribute in original.graph.node[0].attribute if attribute.name == "body")
    projection = RNG.normal(size=(4, 2)).astype(np.float32)
    original.graph.initializer.append(numpy_helper.from_array(projection, "projection"))
    for initializer in original.graph.initializer:
        if tuple(initializer.dims) == (16, 4):
            array = numpy_helper.to_array(initializer)[:, :2].copy()
            initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
    for node in body.node:
        node.output[:] = ["h_wide" if name == "cell0_h_out" else name for name in node.output]
        node.input[:] = ["h_out" if name == "cell0_h_out" else name for name in node.input]
    body.node.append(helper.make_node("MatMul", ["h_wide", "projection"], ["cell0_h_out"]))
    last = next(node for node in body.node if node.op_type == "Identity")
    last.input[0] = "cell0_h_out"
    body.node.remove(last)
    body.node.append(last)
    original.graph.input[1].type.tensor_type.shape.dim[1].dim_value = 2
    for output in original.graph.output[:2]:
        output.type.tensor_type.shape.dim[len(output.type.tensor_type.shape.dim) - 1].dim_value = 2
    spec.states[0].shape[:] = [2]
    model = ir.from_proto(original)
    with pytest.raises(StructureError, match="no operator whose hidden state is projected"):
        reform(model, spec, "fused")
    reform(ir.from_proto(original), spec, "gates")
    assert [gate.symbol for gate in spec.gates] == list("ifgo")

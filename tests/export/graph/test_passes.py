"""The passes on a traced network: each does what it says, and the whole leaves the numbers alone."""

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx_ir.passes import PostconditionError, PreconditionError

from gatestream.export.finder.finder import find
from gatestream.export.graph.initializers import constant
from gatestream.export.graph.passes import ChainProducts, FoldConstants, NameWeights, StoreTransposed, tidy
from gatestream.export.rewriting.fuse import Fuse
from gatestream.export.rewriting.naming import NameCells
from gatestream.export.sources.checkpoint import INPUTS, OUTPUTS, trace
from gatestream.model.network import Network, NetworkConfig
from tests.export import networks
from tests.support.traces import traced


@pytest.fixture(scope="module")
def network() -> Network:
    return networks.random(networks.SERIES)


@pytest.fixture
def model(network: Network, tmp_path_factory: pytest.TempPathFactory) -> ir.Model:
    return traced(tmp_path_factory, "series", network)


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.all_nodes())


def test_trace_has_the_contracts_inputs_and_outputs(model: ir.Model) -> None:
    assert tuple(value.name for value in model.graph.inputs) == INPUTS
    assert tuple(value.name for value in model.graph.outputs) == OUTPUTS


def test_weights_are_named_as_in_the_checkpoint(model: ir.Model, network: Network) -> None:
    NameWeights()(model)
    constants = {"input_mean", "input_scale", "output_mean", "output_scale"}
    assert set(model.graph.initializers) == set(network.state_dict()) | constants


def test_names_are_not_taken_twice(model: ir.Model) -> None:
    NameWeights()(model)
    with pytest.raises(PreconditionError, match="are there already"):
        NameWeights()(model)


def test_a_gate_is_two_products_in_a_chain(model: ir.Model) -> None:
    before = operators(model)
    assert ChainProducts()(model).modified
    assert operators(model)["Gemm"] == before["Gemm"] == 8
    assert operators(model)["Add"] == before["Add"] - 4
    assert not ChainProducts()(model).modified


def test_transposed_weights_are_stored(model: ir.Model, network: Network) -> None:
    NameWeights()(model)
    assert StoreTransposed()(model).modified
    stored = constant(model.graph.initializers["head.weight.T"])
    assert stored is not None
    np.testing.assert_array_equal(stored, network.head.weight.detach().numpy().T)
    assert not StoreTransposed()(model).modified


def test_large_weights_are_folded_too() -> None:
    """The exporter's own limits would leave them to be computed at every run."""
    config = NetworkConfig(name="wide", task="", encoder="none", inputs=2, hidden=200, outputs=300)
    model = trace(Network(config))
    tidy()(model)
    for node in model.graph.all_nodes():
        assert any(constant(value) is None for value in node.inputs if value is not None), node


def test_folding_promises_that_nothing_is_left(model: ir.Model) -> None:
    with pytest.raises(PostconditionError, match="still computes a constant"):
        FoldConstants().ensures(model)
    FoldConstants()(model)


def test_all_together_change_no_number(model: ir.Model) -> None:
    before = ir.to_proto(model).SerializeToString()
    tidy()(model)
    NameCells()(model)
    fused = model.clone()
    Fuse()(fused)
    state = torch.rand(3, 1, 4).numpy(), torch.rand(3, 1, 4).numpy()
    feed = {"x": torch.randn(3, 5, 2).numpy() * 250 + 1500, "length": np.array([5, 1, 3], np.int32)}
    feed |= {"h": state[0], "c": state[1]}
    expected, gates, packed = (
        onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(["y", "h_next", "c_next"], feed)
        for data in (before, *(ir.to_proto(each).SerializeToString() for each in (model, fused)))
    )
    for left, right, other in zip(expected, gates, packed, strict=True):
        rows = [(0, 5), (1, 1), (2, 3)] if left.shape[1:] == (5, 4) else [(row, None) for row in range(3)]
        for row, length in rows:
            np.testing.assert_allclose(right[row, :length], left[row, :length], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(other[row, :length], left[row, :length], rtol=1e-5, atol=1e-6)


def test_cells_are_named_after_the_equations(model: ir.Model) -> None:
    tidy()(model)
    NameCells()(model)
    (cell,) = find(model).cells
    assert (cell.x, cell.h, cell.c) == ("cells.0.x", "cells.0.h", "cells.0.c")
    assert (cell.h_next, cell.c_next) == ("cells.0.h_next", "cells.0.c_next")
    assert {symbol: gate.activation for symbol, gate in cell.gates.items()} == {s: f"cells.0.{s}" for s in "ifgo"}


def test_fusing_needs_a_scan_and_leaves_none(model: ir.Model) -> None:
    tidy()(model)
    Fuse()(model)
    assert operators(model)["LSTM"] == 1
    assert operators(model)["Scan"] == 0
    assert not [name for name in model.graph.initializers if "_gate." in name], "weights that nothing reads"
    with pytest.raises(PreconditionError, match="the cells are LSTM operators already"):
        Fuse()(model)


def test_packed_weights_are_in_the_operators_order(model: ir.Model, network: Network) -> None:
    tidy()(model)
    Fuse()(model)
    W, R, B = (constant(model.graph.initializers[f"cells.0.lstm.{name}"]) for name in "WRB")
    assert W is not None
    assert R is not None
    assert B is not None
    assert (W.shape, R.shape, B.shape) == ((1, 16, 3), (1, 16, 4), (1, 32))
    for k, gate in enumerate(("input_gate", "output_gate", "forget_gate", "cell_candidate")):
        rows = slice(4 * k, 4 * k + 4)
        parameters = network.cells[0].get_submodule(gate)
        for packed, name in ((W, "W"), (R, "R"), (B, "b")):
            np.testing.assert_array_equal(packed[0, rows], parameters.get_parameter(name).detach().numpy())
    assert not B[0, 16:].any()

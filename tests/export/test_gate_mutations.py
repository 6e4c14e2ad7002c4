"""Whatever is spoilt of the gates of a GRU, or of a model of several cells, inspect says what."""

import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from google.protobuf import json_format
from onnx import helper, numpy_helper

from gatestream.export import artifact
from gatestream.export.drawing.findings import Findings, look
from gatestream.export.errors import ArtifactError
from gatestream.export.proof import stream_checks
from gatestream.export.rewriting.reform import reform
from gatestream.protos import spec as specs
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.weights import intact_fingerprint
from tests.export import mutations as m
from tests.export.mutations import Mutation
from tests.support import recurrent

RNG = np.random.default_rng(3)
BEHIND = recurrent.random("GRU", 3, 4, RNG).with_options(linear_before_reset=True)
BEFORE = recurrent.random("GRU", 4, 4, RNG)
LSTM = recurrent.random("LSTM", 4, 4, RNG)
MODULES = {"r": "reset_gate", "z": "update_gate", "n": "candidate"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two GRUs and an LSTM in form gates; cell0's reset gate is applied behind the product, cell1's before it."""
    original, spec = recurrent.streaming([BEHIND, BEFORE, LSTM], length=True)
    model = ir.from_proto(original)
    reform(model, spec, "gates")
    path = tmp_path_factory.mktemp("made") / "model.onnx"
    artifact.save(model, spec, path)
    return path


def body(model: onnx.ModelProto, cell: str) -> onnx.GraphProto:
    scan = next(node for node in model.graph.node if node.name == cell)
    return next(attribute.g for attribute in scan.attribute if attribute.name == "body")


def maker(model: onnx.ModelProto, tensor: str) -> onnx.NodeProto:
    return next(node for node in body(model, tensor.split(".")[0]).node if tensor in node.output)


def intact(model: onnx.ModelProto) -> None:
    """Whoever spoils weights may well write the hash of what stands there then."""
    stored = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    m.edit_spec(model, lambda spec: setattr(spec, "stored_fingerprint", intact_fingerprint(stored)))


def outputs_exchanged(cell: str, first: str, second: str) -> Mutation:
    names = {symbol: f"{cell}.{name}" for symbol, name in {"r": "reset", "z": "update", "n": "candidate"}.items()}

    def mutate(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.output[:] = m.exchange_names(list(node.output), names[first], names[second])

    return mutate


def initializers_exchanged(cell: str, first: str, second: str) -> Mutation:
    def mutate(model: onnx.ModelProto) -> None:
        one, other = (f"{cell}.{MODULES[symbol]}" for symbol in (first, second))
        for node in body(model, cell).node:
            for parameter in "WRb":
                node.input[:] = m.exchange_names(list(node.input), f"{one}.{parameter}", f"{other}.{parameter}")

    return mutate


def used_exchanged(cell: str, first: str, second: str) -> Mutation:
    """In the equations each gate stands where the other should."""

    def mutate(model: onnx.ModelProto) -> None:
        for node in body(model, cell).node:
            node.input[:] = m.exchange_names(list(node.input), f"{cell}.{first}", f"{cell}.{second}")

    return mutate


def weights_exchanged(cell: str, first: str, second: str) -> Mutation:
    def mutate(model: onnx.ModelProto) -> None:
        for parameter in "WRb":
            one, other = (f"{cell}.{MODULES[symbol]}.{parameter}" for symbol in (first, second))
            m.exchange_values(model, one, other)

    return mutate


def update_inverted(cell: str) -> Mutation:
    """z for 1 - z, and the other way round."""

    def mutate(model: onnx.ModelProto) -> None:
        for node in body(model, cell).node:
            if set(node.output) & {f"{cell}.zh", f"{cell}.zn"}:
                node.input[:] = m.exchange_names(list(node.input), f"{cell}.z", f"{cell}.z_complement")
        nodes = body(model, cell).node
        kept = maker(model, f"{cell}.zh")
        nodes.insert(list(nodes).index(maker(model, f"{cell}.h_next")), kept)  # behind what it takes now
        nodes.remove(kept)

    return mutate


def reset_before(model: onnx.ModelProto) -> None:
    """Cell0's reset gate before the product, and not behind it."""
    inside = body(model, "cell0")
    maker(model, "cell0.n_reset").input[:] = ["cell0.r", "cell0.h"]
    recurrent_product = maker(model, "cell0.n_R")
    m.rewire(recurrent_product, "cell0.h", "cell0.n_reset")
    m.rewire(maker(model, "cell0.n_sum"), "cell0.n_reset", "cell0.n_R")
    nodes = list(inside.node)
    nodes.remove(recurrent_product)
    at = next(k for k, node in enumerate(nodes) if "cell0.n_reset" in node.output)
    del inside.node[:]
    inside.node.extend([*nodes[: at + 1], recurrent_product, *nodes[at + 1 :]])


def reset_behind(model: onnx.ModelProto) -> None:
    """Cell1's reset gate behind the product, and not before it."""
    inside = body(model, "cell1")
    product = maker(model, "cell1.n_sum")
    feed = product.input[2]
    m.rewire(product, "cell1.h_reset", "cell1.h")
    del product.input[2]
    product.output[0] = "n_product"
    at = list(inside.node).index(product)
    inside.node.insert(at + 1, helper.make_node("Mul", ["cell1.r", "n_product"], ["n_reset"], "n_reset"))
    inside.node.insert(at + 2, helper.make_node("Add", ["n_reset", feed], ["cell1.n_sum"], "n_added"))


def operator(tensor: str, op_type: str) -> Mutation:
    def mutate(model: onnx.ModelProto) -> None:
        maker(model, tensor).op_type = op_type

    return mutate


def missing_reset(model: onnx.ModelProto) -> None:
    m.rewire(maker(model, "cell1.n_sum"), "cell1.h_reset", "cell1.h")


def difference(model: onnx.ModelProto) -> None:
    maker(model, "cell0.h_next").op_type = "Sub"


def reset_of_another(model: onnx.ModelProto) -> None:
    """The candidate is reset by the update gate."""
    m.rewire(maker(model, "cell0.n_reset"), "cell0.r", "cell0.z")


def output_before_activation(model: onnx.ModelProto) -> None:
    inside = body(model, "cell0")
    for output in inside.output:
        if output.name == "cell0.n":
            output.name = "cell0.n_sum"


def cells_exchanged(model: onnx.ModelProto) -> None:
    """One cell's output shows the other's gate."""
    for node in model.graph.node:
        node.output[:] = m.exchange_names(list(node.output), "cell0.update", "cell1.update")


def weight_of_another_cell(model: onnx.ModelProto) -> None:
    m.rewire(maker(model, "cell1.z_sum"), "cell1.update_gate.R", "cell0.update_gate.R")


def forget_exchanged(model: onnx.ModelProto) -> None:
    for node in body(model, "cell2").node:
        node.input[:] = m.exchange_names(list(node.input), "cell2.f", "cell2.i")


PAIRS = list(combinations("rzn", 2))
NAMES = {"r": "reset", "z": "update", "n": "candidate"}

SPOILT: dict[str, tuple[Mutation, str]] = {
    **{
        f"{cell}: outputs of {a} and {b} exchanged": (
            outputs_exchanged(cell, a, b),
            f"activations of gate '{cell}.{NAMES[a]}': output '{cell}.{NAMES[a]}' is made of '{cell}.{b}'",
        )
        for cell in ("cell0", "cell1")
        for a, b in PAIRS
    },
    **{
        f"{cell}: initializers of {a} and {b} exchanged": (
            initializers_exchanged(cell, a, b),
            f"cell '{cell}', {NAMES[a]} gate {a}: data flow shows '{cell}.{MODULES[b]}.W' as its W, expected "
            f"'{cell}.{MODULES[a]}.W'",
        )
        for cell in ("cell0", "cell1")
        for a, b in PAIRS
    },
    **{
        f"{cell}: weights of {a} and {b} exchanged": (weights_exchanged(cell, a, b), "its initializers hash to")
        for cell in ("cell0", "cell1")
        for a, b in PAIRS
    },
    "r and z exchanged in the equations": (
        used_exchanged("cell0", "r", "z"),
        "cell 'cell0', reset gate r: data flow shows 'cell0.update_gate.W' as its W",
    ),
    "z and n exchanged in the equations": (
        used_exchanged("cell1", "z", "n"),
        "data flow shows no GRU where the spec says cell 'cell1' is",
    ),
    "cell0: z and 1 - z": (
        update_inverted("cell0"),
        "cell 'cell0': 'cell0.z' (Sigmoid), the update gate z, lets the candidate through and 1 - z the state",
    ),
    "cell1: z and 1 - z": (
        update_inverted("cell1"),
        "cell 'cell1': 'cell1.z' (Sigmoid), the update gate z, lets the candidate through and 1 - z the state",
    ),
    "reset before the product": (
        reset_before,
        "cell 'cell0': the reset gate: data flow shows before the recurrent product, the spec says behind the",
    ),
    "reset behind the product": (
        reset_behind,
        "cell 'cell1': the reset gate: data flow shows behind the recurrent product, the spec says before the",
    ),
    "no reset": (missing_reset, "data flow shows no GRU where the spec says cell 'cell1' is"),
    "no tanh": (operator("cell0.n", "Identity"), "n is 'cell0.n_sum' (Add)"),
    "relu for tanh": (
        operator("cell0.n", "Relu"),
        "cell 'cell0', candidate gate n: 'cell0.n' (Relu) is made by Relu, the spec says Tanh",
    ),
    "tanh for sigmoid": (
        operator("cell1.z", "Tanh"),
        "cell 'cell1', update gate z: 'cell1.z' (Tanh) is made by Tanh, the spec says Sigmoid",
    ),
    "difference for sum": (difference, "data flow shows no GRU where the spec says cell 'cell0' is"),
    "reset by the update gate": (
        reset_of_another,
        "cell 'cell0', reset gate r: data flow shows 'cell0.update_gate.W' as its W, expected 'cell0.reset_gate.W'",
    ),
    "put out before its activation": (
        output_before_activation,
        "output 'cell0.candidate' is made of 'cell0.n_sum' (Add), which data flow shows to be no gate",
    ),
    "one cell's gate for another's": (
        cells_exchanged,
        "output 'cell0.update' is made of 'cell1.z' (Sigmoid), which data flow shows to be the z of cell 'cell1'",
    ),
    "another cell's weight": (
        weight_of_another_cell,
        "cell 'cell1', update gate z: data flow shows 'cell0.update_gate.R' as its R, expected 'cell1.update_gate.R'",
    ),
    "f and i exchanged in an LSTM": (
        forget_exchanged,
        "cell 'cell2', input gate i: data flow shows 'cell2.forget_gate.W' as its W, expected 'cell2.input_gate.W'",
    ),
    "tanh for an LSTM's forget gate": (
        operator("cell2.f", "Tanh"),
        "cell 'cell2', forget gate f: 'cell2.f' (Tanh) is made by Tanh, the spec says Sigmoid",
    ),
    "another form in the spec": (
        m.spec(lambda s: setattr(s, "form", 2)),
        "written out in equations, the spec says fused",
    ),
    "another kind in the spec": (
        m.spec(lambda s: setattr(s.cells[0], "kind", pb.CELL_KIND_LSTM)),
        "cell 'cell0': kind: data flow shows GRU, the spec says LSTM",
    ),
    "another size in the spec": (
        m.spec(lambda s: setattr(s.cells[1], "hidden", 5)),
        "cell 'cell1': hidden: data flow shows 4, the spec says 5",
    ),
    "gates named wrongly": (
        m.spec(lambda s: setattr(s.gates[0], "symbol", "z")),
        "gate 'cell0.reset' has symbol z",
    ),
}


def test_as_it_was_made_it_passes(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_checks, "_SECONDS", 0.2)
    found = look(made)
    assert isinstance(found, Findings)
    assert [cell.kind for cell in found.cells] == ["GRU", "GRU", "LSTM"]
    assert [check.name for check in found.checks][:4] == ["model", "contract", "gates", "replay"]


@pytest.mark.parametrize(("mutation", "message"), SPOILT.values(), ids=SPOILT)
def test_inspect_says_what_is_wrong(made: Path, tmp_path: Path, mutation: Mutation, message: str) -> None:
    model = onnx.load(made)
    before = model.SerializeToString(deterministic=True)
    mutation(model)
    assert model.SerializeToString(deterministic=True) != before
    onnx.save(model, tmp_path / "spoilt.onnx")
    with pytest.raises(ArtifactError, match=re.escape(message)):
        look(tmp_path / "spoilt.onnx")


CHANGES: dict[str, Callable[[onnx.ModelProto], None]] = {
    name: mutation
    for name, (mutation, _) in SPOILT.items()
    if not name.startswith(("another", "gates named", "cell0: outputs", "cell1: outputs", "one cell", "put out"))
}


@pytest.mark.parametrize("mutation", CHANGES.values(), ids=CHANGES)
def test_each_of_them_changes_what_the_model_computes(made: Path, mutation: Mutation) -> None:
    """None is refused for nothing: it gives other numbers."""
    model = onnx.load(made)
    spec = json_format.Parse(next(e.value for e in model.metadata_props if e.key == specs.KEY), pb.ModelSpec())
    rng = np.random.default_rng(0)
    feed = {"x": rng.normal(size=(2, 5, 3)).astype(np.float32), "length": np.array([5, 5], np.int32)}
    feed |= {state.input: rng.uniform(-1, 1, (2, *state.shape)).astype(np.float32) for state in spec.states}
    right = recurrent.outputs(model, feed)["y"]
    mutation(model)
    assert np.abs(recurrent.outputs(model, feed)["y"] - right).max() > 1e-4


# ---- how the cells stand in the graph ----


def carried(cell: str, position: int, tensor: str) -> Mutation:
    def mutate(model: onnx.ModelProto) -> None:
        body(model, cell).output[position].name = tensor

    return mutate


def wired(cell: str, tensor: str, position: int, other: str) -> Mutation:
    def mutate(model: onnx.ModelProto) -> None:
        maker(model, f"{cell}.{tensor}").input[position] = other

    return mutate


def states_exchanged_at_input(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.input[:] = m.exchange_names(list(node.input), "cell2_h", "cell2_c")


def states_exchanged_at_output(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.output[:] = m.exchange_names(list(node.output), "cell2_h_next", "cell2_c_next")


def cells_states_exchanged(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.input[:] = m.exchange_names(list(node.input), "cell0_h", "cell1_h")


WIRES: dict[str, tuple[Mutation, str]] = {
    "the candidate carried for h": (
        wired("cell0", "h_carried", 1, "cell0.n"),
        "'cell0.h_carried' (Where) is carried as the next 'cell0.h'",
    ),
    "length ignored": (carried("cell1", 0, "cell1.h_next"), "'cell1.y' (Where) is collected of each step; expected"),
    "length inverted": (
        wired("cell0", "h_carried", 1, "cell0.h"),
        "'cell0.h_carried' (Where) is carried as the next 'cell0.h'; expected 'cell0.h_next', or Where(t < length",
    ),
    "steps counted by none": (wired("cell0", "t_next", 0, "cell0.t_one"), "expected t < length"),
    "y of another tensor": (wired("cell0", "y", 1, "cell0.z"), "'cell0.y' (Where) is collected of each step; expected"),
    "h and c exchanged at input": (
        states_exchanged_at_input,
        "cell 'cell2': the hidden state starts from 'cell2_c', the spec says from 'cell2_h'",
    ),
    "h and c exchanged at output": (
        states_exchanged_at_output,
        "cell 'cell2': output 'cell2_h_next' is made of 'cell2.c_next' (Add); expected its hidden state",
    ),
    "states of two cells exchanged": (
        cells_states_exchanged,
        "cell 'cell0': the hidden state starts from 'cell1_h', the spec says from 'cell0_h'",
    ),
}


@pytest.mark.parametrize(("mutation", "message"), WIRES.values(), ids=WIRES)
def test_inspect_sees_how_cells_stand_in_the_graph(
    made: Path, tmp_path: Path, mutation: Mutation, message: str
) -> None:
    test_inspect_says_what_is_wrong(made, tmp_path, mutation, message)

"""A spoilt file never passes, and the message says what is wrong with it."""

import re
from pathlib import Path

import onnx
import pytest

from gatestream.export.artifact import load
from gatestream.export.drawing.inspection import inspect
from gatestream.export.errors import ArtifactError
from gatestream.export.exporter import reference, weights_of
from gatestream.export.proof import parity
from gatestream.export.proof.comparison import DifferenceError
from gatestream.export.proof.parity import Model
from gatestream.export.proof.rounding import Rounding
from gatestream.export.proof.runtime import Session
from gatestream.protos.spec import SpecError
from tests.export import mutations as m
from tests.export import networks
from tests.export.conftest import Exported
from tests.export.mutations import Mutation

GATES: dict[str, tuple[Mutation, str]] = {
    "missing forget gate": (m.missing_forget_gate, "takes 'cells.0.c' as it is: the forget gate is missing"),
    "tanh for the forget gate's sigmoid": (
        m.operator("cells.0.f", "Tanh"),
        "'cells.0.f' (Tanh), the factor of the cell state 'cells.0.c', should be the forget gate's Sigmoid",
    ),
    "tanh for the input gate's sigmoid": (
        m.operator("cells.0.i", "Tanh"),
        "expected the input gate's Sigmoid * the cell candidate's Tanh",
    ),
    "sigmoid for the candidate's tanh": (
        m.operator("cells.0.g", "Sigmoid"),
        "'cells.0.i' (Sigmoid) * 'cells.0.g' (Sigmoid) is added to the cell state 'cells.0.c'",
    ),
    "relu for the output gate's sigmoid": (
        m.operator("cells.0.o", "Relu"),
        "'cells.0.o' (Relu), the factor of tanh(c'), should be the output gate's Sigmoid",
    ),
    "sum for product of i and g": (m.added_gate, "expected f * c + i * g"),
    "difference for sum of c'": (
        m.operator("cells.0.c_next", "Sub"),
        "'cells.0.c_next' (Sub), the next 'cells.0.c', is neither f * c + i * g nor o * tanh(c')",
    ),
    "forget gate on h": (m.forget_gate_on_hidden_state, "of which 0 have the cell state 'cells.0.c' as a factor"),
    "gate fed by c": (m.gates_fed_by_cell_state, "gate f, 'cells.0.f' (Sigmoid): of its products 0 are with its own"),
    "f and i exchanged in the equations": (
        m.gates_exchanged,
        "output 'i' is made of f of layer 0, i of layer 1; expected one kind, layer by layer",
    ),
    "bias dropped": (m.bias_dropped, "gate o, 'cells.0.o' (Sigmoid): no bias is added"),
    "layers' states exchanged": (m.layers_exchanged, "hidden states start from 'h'[1], 'h'[0]; expected one graph"),
    "head on the first layer": (m.head_on_first_layer, "expected the last layer's hidden state at every step"),
    "length ignored": (m.length_ignored, "goes on when a row has ended: 'length' is ignored"),
    "length inverted": (m.length_inverted, "expected Where(t < 'length', next, 'cells.1.h')"),
    "steps counted from 1": (m.steps_counted_from_one, "does not count the steps from 0"),
    "h and c exchanged in the loop": (m.carried_into_each_other, "expected Where(t < 'length', next, 'cells.0.h')"),
    "h and c exchanged at input": (
        m.states_exchanged_at_input,
        "the hidden state comes in as and goes out as: data flow shows ('c', 'h_next'), the spec says ('h', 'h_next')",
    ),
    "h and c exchanged at output": (
        m.states_exchanged_at_output,
        "the hidden state comes in as and goes out as: data flow shows ('h', 'c_next'), the spec says ('h', 'h_next')",
    ),
    "h and c exchanged throughout": (
        m.states_exchanged_throughout,
        "the hidden state comes in as and goes out as: data flow shows ('c', 'c_next'), the spec says ('h', 'h_next')",
    ),
    "gate outputs exchanged": (
        m.gate_outputs_exchanged,
        "activations of the input gate i: data flow shows f, the spec says i",
    ),
    "gate put out before its activation": (m.output_before_activation, "output 'g' is made of something else, g of"),
    "output squashed": (m.squashed_output, "carried steps: y differs from numpy (each step), first at step 0"),
    "weights of i and f exchanged": (
        m.weights_exchanged,
        "gates have each other's weights: i has those of f, f has those of i",
    ),
    "initializers of i and f exchanged": (
        m.initializers_exchanged,
        "layer 0, input gate i: data flow shows 'cells.0.forget_gate.W' as its W, expected 'cells.0.input_gate.W'",
    ),
    "bias zeroed": (m.bias_zeroed, "weights or spec were changed after the export"),
    "R transposed": (m.recurrent_transposed, "every R is transposed"),
    "weight computed at run time": (
        m.computed_at_run_time,
        "Transpose 'transpose_R' computes 'transposed' from 'cells.0.cell_candidate.R' at every run",
    ),
    "contract unknown": (m.spec(lambda s: setattr(s, "contract", 3)), "contract 3, this version of gatestream reads 1"),
    "vocabulary missing": (
        m.spec(lambda s: s.inputs[0].ClearField("vocabulary")),
        "input 'x' takes token ids, but the spec gives it no vocabulary",
    ),
    "fingerprint stale": (
        m.spec(lambda s: setattr(s, "weights_fingerprint", "0" * 64)),
        "the spec says 0000000000000000: weights or spec were changed after the export",
    ),
    "states paired wrongly": (
        m.paired_wrongly,
        "outputs ['y', 'h_next', 'c_next', 'i', 'f', 'g', 'o'], expected ['y', 'c_next', 'h_next', 'i', 'f', 'g', 'o']",
    ),
    "states listed the other way round": (
        m.spec(lambda s: s.states.reverse()),
        "inputs ['x', 'length', 'h', 'c'], expected ['x', 'length', 'c', 'h']",
    ),
    "gates named wrongly": (
        m.spec(lambda s: setattr(s.gates[0], "name", "forget")),
        "gates: data flow shows [('i', 'input'), ('f', 'forget'), ('g', 'candidate'), ('o', 'output')]",
    ),
    "another number of layers in the spec": (
        m.spec(lambda s: setattr(s, "layers", 1)),
        "'i' is FLOAT ['batch', 'time', 2, 6], expected FLOAT ['batch', 'time', 1, 6]",
    ),
    "another form in the spec": (
        m.spec(lambda s: setattr(s, "form", 2)),
        "form: data flow shows gates, the spec says fused",
    ),
    "another opset in the spec": (m.spec(lambda s: setattr(s, "opset", 21)), "opset 20, but the spec says 21"),
}

FUSED: dict[str, tuple[Mutation, str]] = {
    "packed as torch does": (m.packed_as_torch_does, "the gates are packed in the order ifgo, the operator takes iofg"),
    "length ignored": (m.without_input(4), "LSTM 'cells.0.lstm' has no input sequence_lens: 'length' is ignored"),
    "bias dropped": (m.without_input(3), "LSTM 'cells.0.lstm' has no input B"),
    "hidden state not taken": (m.without_input(5), "LSTM 'cells.0.lstm' has no input initial_h"),
    "h and c exchanged at input": (m.states_exchanged_at_input, "data flow shows ('c', 'h_next'), the spec says"),
    "h and c exchanged at output": (m.states_exchanged_at_output, "data flow shows ('h', 'c_next'), the spec says"),
    "peepholes": (m.peepholes, "LSTM 'cells.0.lstm' has peephole weights 'peepholes'"),
    "reverse": (m.attribute(direction="reverse"), "LSTM 'cells.0.lstm' has direction 'reverse'"),
    "clipped": (m.attribute(clip=1.0), "LSTM 'cells.0.lstm' has clip 1.0"),
    "input and forget gate coupled": (m.attribute(input_forget=1), "LSTM 'cells.0.lstm' has input_forget 1"),
    "other activations": (
        m.attribute(activations=["Sigmoid", "Sigmoid", "Tanh"]),
        "LSTM 'cells.0.lstm' has activations",
    ),
    "gates in the spec": (
        m.spec(lambda s: s.gates.add(name="input", symbol="i", output="i")),
        "outputs ['y', 'h_next', 'c_next'], expected ['y', 'h_next', 'c_next', 'i']",
    ),
    "another packed order in the spec": (
        m.spec(lambda s: setattr(s, "packed_gate_order", "ifgo")),
        "packed gate order: data flow shows iofc, the spec says ifgo",
    ),
}

SERIES: dict[str, tuple[Mutation, str]] = {
    "another mean": (m.other_mean, "carried steps: i differs from numpy (each step), first at step 0"),
    "another mean in the spec": (
        m.spec(lambda s: s.outputs[0].mean.__setitem__(0, 1501.0)),
        "carried steps: y differs from numpy (each step), first at step 0",
    ),
}


def spoilt(exported: Exported, name: str, form: str, mutation: Mutation, folder: Path) -> Path:
    path, _ = exported(name, "gates" if form == "gates" else "fused")
    model = onnx.load(path)
    before = model.SerializeToString(deterministic=True)
    mutation(model)
    assert model.SerializeToString(deterministic=True) != before
    onnx.save(model, folder / "spoilt.onnx")
    return folder / "spoilt.onnx"


@pytest.mark.parametrize(
    ("name", "form", "mutation", "message"),
    [
        pytest.param(name, form, mutation, message, id=f"{name}, {form}: {what}")
        for name, form, table in (("tokens", "gates", GATES), ("tokens", "fused", FUSED), ("series", "gates", SERIES))
        for what, (mutation, message) in table.items()
    ],
)
def test_inspect_says_what_is_wrong(
    exported: Exported, tmp_path: Path, name: str, form: str, mutation: Mutation, message: str
) -> None:
    path = spoilt(exported, name, form, mutation, tmp_path)
    with pytest.raises((ArtifactError, SpecError), match=re.escape(message)):
        inspect(path)


def runnable(path: Path) -> Model:
    """A spoilt file, and the network that it was."""
    spec = load(path).spec
    return Model(Session(path, spec), spec, Rounding(weights_of(networks.random(networks.TOKENS)), spec))


NUMBERS: dict[str, tuple[str, Mutation, str, int]] = {
    "missing forget gate": ("gates", m.missing_forget_gate, "c", 1),
    "tanh for sigmoid": ("gates", m.operator("cells.0.f", "Tanh"), "f", 0),
    "sigmoid for tanh": ("gates", m.operator("cells.0.g", "Sigmoid"), "g", 0),
    "sum for product": ("gates", m.added_gate, "c", 0),
    "bias dropped": ("gates", m.bias_dropped, "o", 0),
    "bias zeroed": ("gates", m.bias_zeroed, "f", 0),
    "R transposed": ("gates", m.recurrent_transposed, "i", 1),
    "weights exchanged": ("gates", m.weights_exchanged, "i", 0),
    "gate outputs exchanged": ("gates", m.gate_outputs_exchanged, "i", 0),
    "h and c exchanged": ("gates", m.states_exchanged_throughout, "c", 0),
    "output squashed": ("gates", m.squashed_output, "y", 0),
    "head on the first layer": ("gates", m.head_on_first_layer, "y", 0),
    "steps counted from 1": ("gates", m.steps_counted_from_one, "c", 0),
    "packed as torch does": ("fused", m.packed_as_torch_does, "c", 0),
    "fused, bias dropped": ("fused", m.without_input(3), "c", 0),
}


@pytest.mark.parametrize(("form", "mutation", "tensor", "step"), NUMBERS.values(), ids=NUMBERS)
def test_parity_alone_sees_it_too(
    exported: Exported, tmp_path: Path, form: str, mutation: Mutation, tensor: str, step: int
) -> None:
    """Without a look at the graph: the numbers name the tensor and the step."""
    path = spoilt(exported, "tokens", form, mutation, tmp_path)
    message = f"{tensor} differs from torch (each step), first at step {step},"
    with pytest.raises(DifferenceError, match=re.escape(message)):
        parity.carried(runnable(path), reference(networks.random(networks.TOKENS)), steps=40)


@pytest.mark.parametrize(
    ("form", "mutation"), [("gates", m.length_ignored), ("gates", m.length_inverted), ("fused", m.without_input(4))]
)
def test_ragged_rows_see_that_length_is_ignored(
    exported: Exported, tmp_path: Path, form: str, mutation: Mutation
) -> None:
    path = spoilt(exported, "tokens", form, mutation, tmp_path)
    with pytest.raises(DifferenceError, match=r"differs from alone \(rows of unlike length\), first at step"):
        parity.ragged(runnable(path))

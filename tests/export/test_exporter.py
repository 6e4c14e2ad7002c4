from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gatestream.export.artifact import load
from gatestream.export.errors import NoGatesError
from gatestream.export.exporter import Form, build, export, weights_of
from gatestream.export.finder.finder import find
from gatestream.export.proof.comparison import FLOW
from gatestream.export.proof.report import VerificationError
from gatestream.model.cell import Gates, LSTMCell
from gatestream.model.config import Encoder
from gatestream.model.network import Network, NetworkConfig
from gatestream.model.weights import from_lstm
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.weights import fingerprint
from tests.export import networks
from tests.export.conftest import PROOF, Exported

FORMS: tuple[Form, ...] = ("gates", "fused")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["numbers", "series", "tokens", pytest.param("embedding", marks=pytest.mark.slow)])
def test_every_encoder_in_both_forms_is_proved(exported: Exported, name: str, form: Form) -> None:
    _, report = exported(name, form)
    assert [check.name for check in report.checks if check.passed] == PROOF
    compared = {(figure.reference, figure.case, figure.tensor) for figure in report.figures}
    assert compared == {
        (reference, case, tensor)
        for reference, cases in (
            ("torch", ("each step", "singly", "in chunks")),
            ("numpy", ("each step", "each chunk", "singly", "in chunks")),
            ("alone", ("rows together", "rows of unlike length")),
        )
        for case in cases
        for tensor in (FLOW if form == "gates" else ("c", "h", "y"))
    }
    assert all(figure.steps >= 1000 for figure in report.figures if figure.reference != "alone")
    assert all(figure.max_abs_difference <= 1e-5 for figure in report.figures if figure.tensor in "ifgoh")


@pytest.mark.parametrize("name", networks.ALL)
def test_both_forms_hold_the_same_weights(exported: Exported, name: str) -> None:
    prints = {load(exported(name, form)[0]).spec.weights_fingerprint for form in FORMS}
    assert prints == {fingerprint(weights_of(networks.random(networks.ALL[name])))}


def test_spec_says_what_the_file_is(exported: Exported) -> None:
    spec = load(exported("series", "gates")[0]).spec
    config = networks.SERIES
    assert (spec.contract, spec.name, spec.version, spec.task) == (1, "series", "1", "series")
    assert (spec.form, spec.cell, spec.layers, spec.hidden) == (pb.FORM_GATES, pb.CELL_KIND_LSTM, 1, 4)
    (x,), (y,) = spec.inputs, spec.outputs
    assert (x.name, x.dtype, list(x.shape)) == ("x", pb.DATA_TYPE_FLOAT32, [2])
    assert (tuple(x.columns), tuple(x.mean), tuple(x.scale)) == (config.columns, config.input_mean, config.input_scale)
    assert (y.name, list(y.shape), tuple(y.columns)) == ("y", [4], config.output_columns)
    assert (tuple(y.mean), tuple(y.scale)) == (config.output_mean, config.output_scale)
    assert [(s.input, s.output, list(s.shape), s.initial) for s in spec.states] == [
        ("h", "h_next", [1, 4], 0),
        ("c", "c_next", [1, 4], 0),
    ]
    assert [(gate.symbol, gate.name, gate.output) for gate in spec.gates] == [
        ("i", "input", "i"),
        ("f", "forget", "f"),
        ("g", "candidate", "g"),
        ("o", "output", "o"),
    ]
    assert (spec.length_input, spec.packed_gate_order, spec.opset) == ("length", "", 20)
    assert spec.torch_version == torch.__version__
    assert {(figure.reference, figure.tensor) for figure in spec.parity} == {
        (reference, tensor) for reference in ("torch", "numpy") for tensor in FLOW
    }
    assert all(figure.steps >= 1000 for figure in spec.parity)


def test_tokens_without_names_are_named_by_their_ids(exported: Exported) -> None:
    assert list(load(exported("embedding", "gates")[0]).spec.inputs[0].vocabulary) == ["0", "1", "2", "3"]


def test_spec_of_form_fused_records_the_packed_order_and_no_gates(exported: Exported) -> None:
    artifact = load(exported("tokens", "fused")[0])
    assert (artifact.spec.packed_gate_order, list(artifact.spec.gates)) == ("iofc", [])
    assert "".join(artifact.spec.inputs[0].vocabulary) == "BTSXE"
    with pytest.raises(NoGatesError, match="form fused keeps its gates inside the LSTM operator"):
        artifact.gates()
    assert len(load(exported("tokens", "gates")[0]).gates()) == 4


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_plain_initializers_under_their_own_names(exported: Exported, form: Form) -> None:
    model = load(exported("tokens", form)[0]).model
    cells = (
        {f"cells.{k}.{gate}.{name}" for k in (0, 1) for gate in GATE_MODULES for name in "WRb"}
        if form == "gates"
        else {f"cells.{k}.lstm.{name}" for k in (0, 1) for name in "WRB"}
    )
    stored = {name for name, value in model.graph.initializers.items() if value.const_value is not None}
    assert {name for name in stored if name.startswith(("cells.", "head."))} == cells | {"head.weight.T", "head.bias"}
    assert not stored & {value.name for value in model.graph.inputs}


GATE_MODULES = ("input_gate", "forget_gate", "cell_candidate", "output_gate")


@pytest.mark.parametrize("form", FORMS)
def test_batch_and_time_are_dynamic_and_runs_agree_with_the_network(exported: Exported, form: Form) -> None:
    network = networks.random(networks.TOKENS)
    session = onnxruntime.InferenceSession(exported("tokens", form)[0], providers=["CPUExecutionProvider"])
    for batch, time in ((1, 1), (1, 9), (5, 1), (4, 3)):
        x = torch.randint(0, 5, (batch, time))
        state = torch.rand(batch, 2, 6), torch.rand(batch, 2, 6)
        with torch.no_grad():
            y, (h, c), gates = network(x, state)
        feed = {"x": x, "length": torch.full((batch,), time, dtype=torch.int32), "h": state[0], "c": state[1]}
        found = session.run(None, {name: tensor.numpy() for name, tensor in feed.items()})
        expected = [y, h, c, *(gates if form == "gates" else ())]
        for left, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(left, right.numpy(), atol=1e-6)


def test_equal_biases_stay_apart(tmp_path: Path) -> None:
    """Initializers of equal value are not merged: each gate keeps its own."""
    network = Network(networks.NUMBERS)
    with torch.no_grad():
        for gate in network.cells[0].children():
            gate.get_parameter("b").zero_()
    export(network, tmp_path / "model.onnx", "gates")


def test_the_network_is_left_as_it_was() -> None:
    network = networks.random(networks.NUMBERS).train()
    before = weights_of(network)
    build(network, "fused")
    assert network.training
    assert all((array == before[name]).all() for name, array in weights_of(network).items())


@pytest.mark.slow
def test_weights_of_an_nn_lstm(tmp_path: Path) -> None:
    """A model of torch's own classes, taken over by the weights map, and its numbers in the end."""
    torch.manual_seed(3)
    lstm, head = torch.nn.LSTM(3, 6, num_layers=2, batch_first=True), torch.nn.Linear(6, 2)
    network = Network(
        NetworkConfig(name="theirs", task="theirs", encoder="none", inputs=3, hidden=6, layers=2, outputs=2)
    )
    from_lstm([cell for cell in network.cells if isinstance(cell, LSTMCell)], lstm.state_dict())
    network.head.load_state_dict(head.state_dict())
    export(network, tmp_path / "theirs.onnx", "fused")
    x = torch.randn(4, 50, 3)
    with torch.no_grad():
        expected = head(lstm(x)[0])
    session = onnxruntime.InferenceSession(tmp_path / "theirs.onnx", providers=["CPUExecutionProvider"])
    zeros = np.zeros((4, 2, 6), np.float32)
    (y,) = session.run(["y"], {"x": x.numpy(), "length": np.full(4, 50, np.int32), "h": zeros, "c": zeros})
    np.testing.assert_allclose(y, expected.numpy(), atol=1e-6)


class _Leaky(LSTMCell):
    """An LSTM cell in name only: its forget gate is squashed by tanh."""

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Gates]:
        i, g, o = torch.sigmoid(self.input_gate(x, h)), torch.tanh(self.cell_candidate(x, h)), self.output_gate(x, h)
        f, o = torch.tanh(self.forget_gate(x, h)), torch.sigmoid(o)
        c = f * c + i * g
        return o * torch.tanh(c), c, (i, f, g, o)


def test_a_cell_that_is_no_lstm_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    network = Network(networks.NUMBERS)
    network.cells[0] = _Leaky(3, 8)
    with pytest.raises(VerificationError, match=r"build: .* should be the forget gate's Sigmoid") as caught:
        export(network, tmp_path / "model.onnx", "gates")
    assert not caught.value.report.passed
    assert list(tmp_path.iterdir()) == []


class _Biased(Network):
    """A network that adds to its outputs when it is not traced: what is exported is something else."""

    def decode(self, h: Tensor) -> Tensor:
        return super().decode(h) + (0.0 if torch.compiler.is_compiling() else 1e-3)


def test_a_file_that_differs_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the old one")
    with pytest.raises(VerificationError) as caught:
        export(_Biased(networks.NUMBERS), path, "gates")
    assert str(caught.value).startswith(
        "carried steps: y differs from torch (each step), first at step 0, row 0, unit 0:"
    )
    difference = caught.value.report.difference
    assert difference is not None
    assert difference.found - difference.expected == pytest.approx(-1e-3, abs=1e-5)
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(
    max_examples=16,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # an export takes seconds: too long to shrink by
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    encoder=st.sampled_from(["one_hot", "embedding", "linear", "none"]),
    form=st.sampled_from(FORMS),
    inputs=st.integers(1, 9),
    hidden=st.integers(1, 12),
    layers=st.integers(1, 3),
    outputs=st.integers(1, 5),
    seed=st.integers(0, 2**16),
)
def test_any_size_is_proved(
    tmp_path: Path, encoder: Encoder, form: Form, inputs: int, hidden: int, layers: int, outputs: int, seed: int
) -> None:
    config = NetworkConfig(
        name="any",
        task="any",
        encoder=encoder,
        inputs=inputs,
        embedding=3 if encoder in ("embedding", "linear") else 0,
        hidden=hidden,
        layers=layers,
        outputs=outputs,
    )
    path = tmp_path / "any.onnx"
    assert export(networks.random(config, seed), path, form).passed
    cells = find(load(path).model).cells
    assert [cell.gates["f"].R.shape for cell in cells] == [(hidden, hidden)] * layers

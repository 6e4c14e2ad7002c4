"""The oracle against torch's own LSTM, which shares no code with the model either."""

import sys

import numpy as np
import pytest
import torch

from gatestream.export.proof.oracle import Oracle
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


def spec(layers: int, tokens: bool = False) -> pb.ModelSpec:
    dtype = pb.DATA_TYPE_INT64 if tokens else pb.DATA_TYPE_FLOAT32
    return pb.ModelSpec(
        layers=layers, hidden=5, inputs=[pb.TensorSpec(name="x", dtype=dtype)], outputs=[pb.TensorSpec(name="y")]
    )


def weights_of(lstm: torch.nn.LSTM, head: torch.nn.Linear) -> dict[str, np.ndarray]:
    found = {"head.weight": head.weight.detach().numpy(), "head.bias": head.bias.detach().numpy()}
    state = {name: tensor.numpy() for name, tensor in lstm.state_dict().items()}
    for layer in range(lstm.num_layers):
        for k, gate in enumerate(("input_gate", "forget_gate", "cell_candidate", "output_gate")):
            rows = slice(k * lstm.hidden_size, (k + 1) * lstm.hidden_size)
            found[f"cells.{layer}.{gate}.W"] = state[f"weight_ih_l{layer}"][rows]
            found[f"cells.{layer}.{gate}.R"] = state[f"weight_hh_l{layer}"][rows]
            found[f"cells.{layer}.{gate}.b"] = state[f"bias_ih_l{layer}"][rows] + state[f"bias_hh_l{layer}"][rows]
    return found


@pytest.mark.parametrize("layers", [1, 3])
def test_equals_torchs_lstm(layers: int) -> None:
    torch.manual_seed(layers)
    lstm, head = torch.nn.LSTM(3, 5, layers, batch_first=True), torch.nn.Linear(5, 2)
    x, h, c = torch.randn(4, 30, 3), torch.randn(layers, 4, 5), torch.randn(layers, 4, 5)
    with torch.no_grad():
        hs, (h_next, c_next) = lstm(x, (h, c))
        y = head(hs)
    steps = Oracle(weights_of(lstm, head), spec(layers)).run(
        x.numpy(), h.transpose(0, 1).numpy(), c.transpose(0, 1).numpy()
    )
    np.testing.assert_allclose(steps["y"], y.numpy(), atol=1e-6)
    np.testing.assert_allclose(steps["h"][:, :, -1], hs.numpy(), atol=1e-6)
    np.testing.assert_allclose(steps["h"][:, -1], h_next.transpose(0, 1).numpy(), atol=1e-6)
    np.testing.assert_allclose(steps["c"][:, -1], c_next.transpose(0, 1).numpy(), atol=1e-6)


def test_gates_make_the_states() -> None:
    torch.manual_seed(0)
    lstm, head = torch.nn.LSTM(3, 5, 2), torch.nn.Linear(5, 2)
    x, zeros = np.random.default_rng(0).standard_normal((2, 9, 3)), np.zeros((2, 2, 5))
    s = Oracle(weights_of(lstm, head), spec(2)).run(x, zeros, zeros)
    before = np.concatenate([zeros[:, None], s["c"][:, :-1]], axis=1)
    np.testing.assert_allclose(s["c"], s["f"] * before + s["i"] * s["g"], atol=1e-12)
    np.testing.assert_allclose(s["h"], s["o"] * np.tanh(s["c"]), atol=1e-12)
    assert all(((s[gate] > 0) & (s[gate] < 1)).all() for gate in "ifo")


def test_tokens_are_one_hot_or_rows_of_the_embedding() -> None:
    torch.manual_seed(0)
    lstm, head = torch.nn.LSTM(3, 5), torch.nn.Linear(5, 2)
    weights, zeros = weights_of(lstm, head), np.zeros((1, 1, 5))
    tokens = np.array([[2, 0, 1, 2]])
    one_hot = Oracle(weights, spec(1, tokens=True)).run(tokens, zeros, zeros)["y"]
    np.testing.assert_array_equal(one_hot, Oracle(weights, spec(1)).run(np.eye(3)[tokens], zeros, zeros)["y"])
    table = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    looked_up = Oracle(weights | {"encoder.weight": table}, spec(1, tokens=True)).run(tokens, zeros, zeros)["y"]
    np.testing.assert_array_equal(looked_up, Oracle(weights, spec(1)).run(table[tokens], zeros, zeros)["y"])


def test_numbers_are_normalised_and_mapped() -> None:
    torch.manual_seed(0)
    lstm, head = torch.nn.LSTM(3, 5), torch.nn.Linear(5, 2)
    weights, zeros = weights_of(lstm, head), np.zeros((1, 1, 5))
    rng = np.random.default_rng(0)
    linear = {
        "encoder.1.weight": rng.standard_normal((3, 2)).astype(np.float32),
        "encoder.1.bias": rng.standard_normal(3).astype(np.float32),
    }
    scaled = spec(1)
    scaled.inputs[0].mean[:], scaled.inputs[0].scale[:] = (10, 20), (2, 4)
    scaled.outputs[0].mean[:], scaled.outputs[0].scale[:] = (1, 2), (3, 5)
    x = rng.standard_normal((1, 6, 2)) * 3 + 15
    normalised = (x - np.array([10, 20])) / np.array([2, 4])
    plain = normalised @ linear["encoder.1.weight"].astype(np.float64).T + linear["encoder.1.bias"]
    expected = Oracle(weights, spec(1)).run(plain, zeros, zeros)["y"] * np.array([3, 5]) + np.array([1, 2])
    np.testing.assert_allclose(Oracle(weights | linear, scaled).run(x, zeros, zeros)["y"], expected, atol=1e-12)


def test_large_sums_do_not_overflow() -> None:
    lstm, head = torch.nn.LSTM(3, 5), torch.nn.Linear(5, 2)
    zeros = np.zeros((1, 1, 5))
    steps = Oracle(weights_of(lstm, head), spec(1)).run(np.full((1, 2, 3), 1e6), zeros, zeros)
    assert all(np.isfinite(values).all() for values in steps.values())


def test_shares_no_code_with_the_model() -> None:
    """All that it takes from the project is the spec."""
    module = sys.modules["gatestream.export.proof.oracle"]
    ours = {name for name, value in vars(module).items() if getattr(value, "__module__", "").startswith("gatestream")}
    assert ours == {"Oracle", "_affine", "_is_encoder", "_sigma"}

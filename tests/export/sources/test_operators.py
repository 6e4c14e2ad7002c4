"""Recurrent layers of torch's, of every make, as they are traced: against torch's own kernels, in chunks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from gatestream.export.sources.signature import read
from gatestream.export.sources.streamed import Streamed
from gatestream.export.sources.tracing import trace

RELU, PROJECTED = {"nonlinearity": "relu"}, {"proj_size": 3}
MAKES: list[tuple[Callable[..., nn.RNNBase], bool, bool, int, dict[str, Any]]] = [
    (nn.LSTM, True, False, 1, {}),
    (nn.LSTM, False, True, 2, {}),
    (nn.LSTM, True, False, 2, PROJECTED),
    (nn.LSTM, False, True, 1, PROJECTED),
    (nn.GRU, False, True, 2, {}),
    (nn.GRU, True, False, 3, {}),
    (nn.RNN, True, True, 2, {}),
    (nn.RNN, False, False, 1, {}),
    (nn.RNN, False, False, 3, RELU),
    (nn.RNN, True, True, 1, RELU),
]


@pytest.mark.parametrize(("kind", "bias", "batch_first", "layers", "more"), MAKES)
def test_a_layer_is_what_torch_runs(
    kind: Callable[..., nn.RNNBase], bias: bool, batch_first: bool, layers: int, more: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    layer = kind(4, 5, num_layers=layers, bias=bias, batch_first=batch_first, **more).eval()
    shape = "input:float32[4]" if batch_first else "input:float32[time,batch,4]"
    streamed = Streamed(layer, read(layer, [shape]))
    made = trace(streamed)
    assert (made.rewritten, made.rows_frozen) == ((), False)
    expected = "Scan" if more == PROJECTED else type(layer).__name__
    assert [node.op_type for node in made.model.graph].count(expected) == layers
    session = onnxruntime.InferenceSession(
        ir.to_proto(made.model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_outputs()]
    x = torch.randn(3, 9, 4)
    with torch.no_grad():
        ys, after = layer(x if batch_first else x.transpose(0, 1))
    ys = ys if batch_first else ys.transpose(0, 1)
    states = {port.name: port.start(3).numpy() for port in streamed.states}
    found = []
    for start, stop in [(0, 4), (4, 5), (5, 9)]:
        given = dict(zip(names, session.run(names, {"input": x[:, start:stop].numpy(), **states}), strict=True))
        states = {name: given[f"{name}_next"] for name in states}
        found.append(given["y"])
    np.testing.assert_allclose(np.concatenate(found, axis=1), ys.numpy(), rtol=0, atol=2e-6)
    for state, last in zip(states.values(), after if isinstance(after, tuple) else (after,), strict=True):
        np.testing.assert_allclose(state, last.transpose(0, 1).numpy(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(
    ("dtype", "operator", "said"),
    [
        (torch.float64, "Scan", "'{}' is its equations in a Scan: onnxruntime has no {} of float64"),
        (torch.float16, "{}", "'{}' is computed in float32, between casts: onnxruntime has no {} of float16"),
    ],
)
def test_a_layer_of_another_type_is_as_near_as_its_type_allows(
    kind: Callable[..., nn.RNNBase], dtype: torch.dtype, operator: str, said: str
) -> None:
    torch.manual_seed(0)
    layer = kind(4, 5, batch_first=True).to(dtype).eval()
    name = type(layer).__name__
    streamed = Streamed(layer, read(layer, [f"input:{str(dtype).removeprefix('torch.')}[4]"]))
    made = trace(streamed)
    assert made.rewritten == (said.format(name, name),)
    assert [node.op_type for node in made.model.graph].count(operator.format(name)) == 1
    session = onnxruntime.InferenceSession(
        ir.to_proto(made.model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = torch.randn(3, 9, 4, dtype=dtype)
    with torch.no_grad():
        ys, _ = layer(x)
        true, _ = layer.double()(x.double())
    y, *_ = session.run(["y"], {"input": x.numpy(), **{port.name: port.start(3).numpy() for port in streamed.states}})
    assert y.dtype == ys.numpy().dtype
    lost = float((ys.double() - true).abs().max())
    assert np.abs(y - true.numpy()).max() <= max(lost, 4 * torch.finfo(dtype).eps)

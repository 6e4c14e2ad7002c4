"""Recurrent layers of torch's while they are traced: as ONNX's operators, or by their equations where there is none.

torch's own exporter unrolls some of them over the steps of the example, and cannot write a projection.
"""

from collections.abc import Callable
from typing import Any, Final, cast

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan  # what torch.export knows; torch has no public name for it

from gatestream.export.errors import SourceError

LAYER: Final = "gatestream.layer"
"""Of a node's metadata: which layer it is, "encoder.lstm" or, of several, "encoder.lstm.0"."""

_DTYPES: Final = (torch.float32, torch.float16, torch.float64)
"""onnxruntime's CPU has no layer of float16 and none of float64. The first is computed in float32, between casts; the
second by its equations."""

# The blocks of torch's packed weights, in ONNX's order.
_LSTM, _GRU, _RNN = (0, 3, 1, 2), (1, 0, 2), (0,)  # i f g o: i o f g; r z n: z r n


def traced(
    layer: nn.RNNBase, name: str, xs: Tensor, states: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...] | Tensor]:
    """What a recurrent layer returns, in a graph that becomes ONNX.

    Args:
        layer: in evaluation mode, of one direction and any number of layers.
        name: of the submodule.
        xs: [batch, time, inputs] or [time, batch, inputs], as the layer has it.
        states: h, and of an LSTM c, each [layers, batch, size].

    Raises:
        SourceError: it computes in a type that no artifact has.
    """
    dtype = xs.dtype
    if dtype not in _DTYPES:
        said = str(dtype).removeprefix("torch.")
        raise SourceError(f"'{name}' computes in {said}, which no artifact has: call float() first")
    if dtype == torch.float16:
        xs, states = xs.float(), tuple(state.float() for state in states)
    ys = xs.transpose(0, 1) if layer.batch_first else xs  # [time, batch, inputs]
    run = _equations if layer.proj_size or dtype == torch.float64 else _operator
    after = []
    for k in range(layer.num_layers):
        called = f"{name}.{k}" if layer.num_layers > 1 else name
        one = [state[k : k + 1] if layer.num_layers > 1 else state for state in states]
        ys, following = run(layer, k, called, ys, one)
        after.append(following)
    stacked = tuple((torch.cat(parts) if len(parts) > 1 else parts[0]).to(dtype) for parts in zip(*after, strict=True))
    found = (ys.transpose(0, 1) if layer.batch_first else ys).to(dtype)
    return found, stacked if isinstance(layer, nn.LSTM) else stacked[0]


def written(name: str, layer: nn.Module) -> str:
    """How a layer is written where its type has no operator, in words; empty: it has one."""
    what = type(layer).__name__
    match layer.weight_hh_l0.dtype if isinstance(layer, nn.RNNBase) else None:
        case torch.float64:
            return f"'{name}' is its equations in a Scan: onnxruntime has no {what} of float64"
        case torch.float16:
            return f"'{name}' is computed in float32, between casts: onnxruntime has no {what} of float16"
    return ""


def _parameters(layer: nn.RNNBase, k: int) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    W, R = _parameter(layer, f"weight_ih_l{k}"), _parameter(layer, f"weight_hh_l{k}")
    if not layer.bias:
        return W, R, None
    return W, R, (_parameter(layer, f"bias_ih_l{k}"), _parameter(layer, f"bias_hh_l{k}"))


def _parameter(layer: nn.RNNBase, name: str) -> Tensor:
    found = cast(Tensor, getattr(layer, name))
    return found.float() if found.dtype == torch.float16 else found


def _operator(layer: nn.RNNBase, k: int, name: str, xs: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """One layer as ONNX's LSTM, GRU or RNN. xs and what it returns [time, batch, size], states [1, batch, size]."""
    order: tuple[int, ...]
    attributes: dict[str, Any] = {"hidden_size": layer.hidden_size}
    match layer:
        case nn.LSTM():
            operator, order = "LSTM", _LSTM
        case nn.GRU():
            operator, order = "GRU", _GRU
            attributes["linear_before_reset"] = 1
        case _:
            operator, order = "RNN", _RNN
            attributes["activations"] = ["Relu" if _nonlinearity(layer) is torch.relu else "Tanh"]
    W, R, biases = _parameters(layer, k)

    def packed(blocks: Tensor) -> Tensor:
        size = layer.hidden_size
        # Slices, which are folded; chunks are not.
        return torch.cat([blocks[index * size : (index + 1) * size] for index in order])

    B = None if biases is None else torch.cat([packed(bias) for bias in biases]).unsqueeze(0)
    time, batch = xs.shape[:2]
    state = (1, batch, layer.hidden_size)
    ys, *following = torch.onnx.ops.symbolic_multi_out(
        operator,
        [xs, packed(W).unsqueeze(0), packed(R).unsqueeze(0), B, None, *states],
        attributes,
        dtypes=[xs.dtype] * (1 + len(states)),
        shapes=[(time, 1, batch, layer.hidden_size), *([state] * len(states))],
        metadata_props={LAYER: name},
    )
    return ys.squeeze(1), list(following)


def _equations(layer: nn.RNNBase, k: int, _: str, xs: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """One layer by its equations, where no runtime has the operator; as `_operator`.

    An LSTM, whose hidden state may be projected (`proj_size`)::

        i, f, g, o = W x + b_W + R h + b_R
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = P (sigmoid(o) * tanh(c'))

    a GRU::

        r, z = sigmoid(W x + b_W + R h + b_R)
        n = tanh(W_n x + b_Wn + r * (R_n h + b_Rn))
        h' = (1 - z) * n + z * h

    and an RNN::

        h' = tanh(W x + b_W + R h + b_R), or relu
    """
    W, R, biases = _parameters(layer, k)
    b_W, b_R = biases or (None, None)
    P = _parameter(layer, f"weight_hr_l{k}") if layer.proj_size else None

    def step(carry: list[Tensor], x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        h, *cell = carry
        below, before = nn.functional.linear(x, W, b_W), nn.functional.linear(h, R, b_R)
        match layer:
            case nn.LSTM():
                i, f, g, o = (below + before).chunk(4, dim=1)
                c = torch.sigmoid(f) * cell[0] + torch.sigmoid(i) * torch.tanh(g)
                h, cell = torch.sigmoid(o) * torch.tanh(c), [c]
                h = h if P is None else nn.functional.linear(h, P)
            case nn.GRU():
                (r, z, n), (r_before, z_before, n_before) = below.chunk(3, dim=1), before.chunk(3, dim=1)
                z = torch.sigmoid(z + z_before)
                h = (1 - z) * torch.tanh(n + torch.sigmoid(r + r_before) * n_before) + z * h
            case _:
                h = _nonlinearity(layer)(below + before)
        return [h, *cell], [h.clone()]  # no two outputs of a scan may be one tensor

    # contiguous: scan wants a carry that comes in as it goes out
    following, (ys,) = scan(step, [state.squeeze(0).contiguous() for state in states], xs)
    return ys, [each.unsqueeze(0) for each in following]


def _nonlinearity(layer: nn.RNNBase) -> Callable[[Tensor], Tensor]:
    return torch.relu if getattr(layer, "nonlinearity", "tanh") == "relu" else torch.tanh


def name_layers(model: ir.Model) -> None:
    """Name the operators after the submodules that they were, and their weights after them: "encoder.lstm.W"."""
    for node in model.graph.all_nodes():
        if (name := node.metadata_props.get(LAYER)) is None:
            continue
        node.name = name
        for part, value in zip("WRB", node.inputs[1:4], strict=True):
            if value is not None and value.is_initializer():
                value.name = f"{name}.{part}"

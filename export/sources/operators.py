"""Recurrent layers of torch's while they are traced: as ONNX's operators, or by their equations where there is none.

torch's own exporter unrolls some of them over the steps of the example, and cannot write a projection.
"""

from typing import Any, Final, cast

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan  # what torch.export knows; torch has no public name for it

from gatestream.export.errors import SourceError

LAYER: Final = "gatestream.layer"
"""Of a node's metadata: which layer it is, "encoder.lstm" or, of several, "encoder.lstm.0"."""

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
        SourceError: it computes in a type that no runtime has the layer for.
    """
    if xs.dtype != torch.float32:
        dtype = str(xs.dtype).removeprefix("torch.")
        raise SourceError(f"'{name}' computes in {dtype}, for which onnxruntime has no such layer: call float() first")
    ys = xs.transpose(0, 1) if layer.batch_first else xs  # [time, batch, inputs]
    run = _projected if layer.proj_size else _operator
    after = []
    for k in range(layer.num_layers):
        called = f"{name}.{k}" if layer.num_layers > 1 else name
        one = [state[k : k + 1] if layer.num_layers > 1 else state for state in states]
        ys, following = run(layer, k, called, ys, one)
        after.append(following)
    stacked = tuple(torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*after, strict=True))
    found = ys.transpose(0, 1) if layer.batch_first else ys
    return found, stacked if isinstance(layer, nn.LSTM) else stacked[0]


def _parameters(layer: nn.RNNBase, k: int) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    W, R = cast(Tensor, getattr(layer, f"weight_ih_l{k}")), cast(Tensor, getattr(layer, f"weight_hh_l{k}"))
    if not layer.bias:
        return W, R, None
    return W, R, (cast(Tensor, getattr(layer, f"bias_ih_l{k}")), cast(Tensor, getattr(layer, f"bias_hh_l{k}")))


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
            attributes["activations"] = ["Relu" if getattr(layer, "nonlinearity", "tanh") == "relu" else "Tanh"]
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


def _projected(layer: nn.RNNBase, k: int, _: str, xs: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """One layer of an LSTM whose hidden state is projected (`proj_size`); as `_operator`.

    ::

        i, f, g, o = W x + b_W + R h + b_R
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = P (sigmoid(o) * tanh(c'))
    """
    W, R, biases = _parameters(layer, k)
    P = cast(Tensor, getattr(layer, f"weight_hr_l{k}"))
    bias = None if biases is None else biases[0] + biases[1]

    def step(carry: list[Tensor], x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        h, c = carry
        sums = nn.functional.linear(x, W, bias) + nn.functional.linear(h, R)  # [batch, 4 * hidden]
        i, f, g, o = sums.chunk(4, dim=1)
        c_next = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h_next = nn.functional.linear(torch.sigmoid(o) * torch.tanh(c_next), P)
        return [h_next, c_next], [h_next.clone()]  # no two outputs of a scan may be one tensor

    # contiguous: scan wants a carry that comes in as it goes out
    following, (ys,) = scan(step, [state.squeeze(0).contiguous() for state in states], xs)
    return ys, [each.unsqueeze(0) for each in following]


def name_layers(model: ir.Model) -> None:
    """Name the operators after the submodules that they were, and their weights after them: "encoder.lstm.W"."""
    for node in model.graph.all_nodes():
        if (name := node.metadata_props.get(LAYER)) is None:
            continue
        node.name = name
        for part, value in zip("WRB", node.inputs[1:4], strict=True):
            if value is not None and value.is_initializer():
                value.name = f"{name}.{part}"

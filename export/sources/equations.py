"""Recurrent layers by their equations, where torch's exporter has no operator for them."""

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan  # what torch.export knows; torch has no public name for it


def projected(lstm: nn.LSTM, xs: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """An LSTM whose hidden state is projected (`proj_size`), which neither of torch's exporters can write.

    ::

        i, f, g, o = W x + b_W + R h + b_R
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = P (sigmoid(o) * tanh(c'))

    Args:
        lstm: of any number of layers.
        xs: [batch, time, inputs] or [time, batch, inputs], as the layer has it.
        states: h [layers, batch, projection] and c [layers, batch, hidden].

    Returns:
        What the layer returns: hs, and (h, c) after the last step.
    """
    below = xs.transpose(0, 1) if lstm.batch_first else xs  # [time, batch, inputs]
    h, c = states
    after = []
    for layer in range(lstm.num_layers):
        names = ["weight_ih", "weight_hh", "weight_hr", *(["bias_ih", "bias_hh"] if lstm.bias else [])]
        W, R, P, *biases = (getattr(lstm, f"{name}_l{layer}") for name in names)
        bias = biases[0] + biases[1] if biases else None

        def step(
            carry: list[Tensor], x: Tensor, W: Tensor = W, R: Tensor = R, P: Tensor = P, bias: Tensor | None = bias
        ) -> tuple[list[Tensor], list[Tensor]]:
            h, c = carry
            sums = nn.functional.linear(x, W, bias) + nn.functional.linear(h, R)  # [batch, 4 * hidden]
            i, f, g, o = sums.chunk(4, dim=1)
            c_next = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h_next = nn.functional.linear(torch.sigmoid(o) * torch.tanh(c_next), P)
            return [h_next, c_next], [h_next.clone()]  # a scan's outputs may not be one tensor

        # contiguous: scan wants a carry that comes in as it goes out
        carry, (below,) = scan(step, [h[layer].contiguous(), c[layer].contiguous()], below)
        after.append(carry)
    h_next, c_next = (torch.stack(parts) for parts in zip(*after, strict=True))
    return below.transpose(0, 1) if lstm.batch_first else below, (h_next, c_next)

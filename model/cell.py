"""The LSTM cell with its four gates named.

References:
    Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 9(8), 1997.
    Gers, Schmidhuber and Cummins, Learning to Forget, Neural Computation 12(10), 2000: the forget gate.
"""

import torch
from torch import Tensor, nn

Gates = tuple[Tensor, Tensor, Tensor, Tensor]
"""Activations (i, f, g, o), after the logistic function or tanh."""

GATES = ("input_gate", "forget_gate", "cell_candidate", "output_gate")
"""The gates in the order in which torch packs them, `ifgo`: the one table of that order."""


class Gate(nn.Module):
    """What is common to the four gates: an affine map of the input and the hidden state.

    Attributes:
        W: weights of the input, float32 [hidden, inputs].
        R: weights of the hidden state (recurrent), float32 [hidden, hidden].
        b: bias, float32 [hidden].
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(hidden, inputs))
        self.R = nn.Parameter(torch.empty(hidden, hidden))
        self.b = nn.Parameter(torch.empty(hidden))
        bound = hidden**-0.5  # as nn.LSTM draws them
        for parameter in (self.W, self.R, self.b):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """`W x + R h + b`: [batch, inputs] and [batch, hidden] to [batch, hidden]."""
        return nn.functional.linear(x, self.W, self.b) + nn.functional.linear(h, self.R)


class LSTMCell(nn.Module):
    """One LSTM layer, one step.

    With sigma the logistic function and * elementwise::

        i  = sigma(W_i x + R_i h + b_i)    input gate
        f  = sigma(W_f x + R_f h + b_f)    forget gate
        g  = tanh (W_g x + R_g h + b_g)    cell candidate
        o  = sigma(W_o x + R_o h + b_o)    output gate
        c' = f * c + i * g                 cell state
        h' = o * tanh(c')                  hidden state

    The forget gate's bias starts at 1, so that an untrained cell remembers (Gers et al. 2000, section 4;
    Jozefowicz et al., An Empirical Exploration of Recurrent Network Architectures, ICML 2015).
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.hidden = hidden
        self.input_gate = Gate(inputs, hidden)
        self.forget_gate = Gate(inputs, hidden)
        self.cell_candidate = Gate(inputs, hidden)
        self.output_gate = Gate(inputs, hidden)
        nn.init.ones_(self.forget_gate.b)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Gates]:
        """Take one step.

        Args:
            x: input, float32 [batch, inputs].
            h: hidden state, float32 [batch, hidden].
            c: cell state, float32 [batch, hidden].

        Returns:
            The next h and c, and the gates' activations, each float32 [batch, hidden].
        """
        i = torch.sigmoid(self.input_gate(x, h))  # [batch, hidden]
        f = torch.sigmoid(self.forget_gate(x, h))  # [batch, hidden]
        g = torch.tanh(self.cell_candidate(x, h))  # [batch, hidden]
        o = torch.sigmoid(self.output_gate(x, h))  # [batch, hidden]
        c_next = f * c + i * g  # [batch, hidden]
        h_next = o * torch.tanh(c_next)  # [batch, hidden]
        return h_next, c_next, (i, f, g, o)

    def packed(self) -> tuple[Tensor, Tensor, Tensor]:
        """The parameters as torch's fused kernel takes them, gates one below another in the order `GATES`.

        Gradients flow through to the named parameters.

        Returns:
            W [4 * hidden, inputs], R [4 * hidden, hidden] and b [4 * hidden], float32.
        """
        gates = [getattr(self, name) for name in GATES]
        return (
            torch.cat([gate.W for gate in gates]),
            torch.cat([gate.R for gate in gates]),
            torch.cat([gate.b for gate in gates]),
        )

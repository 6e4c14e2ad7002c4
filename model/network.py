"""Encoder, a stack of cells, head: the network in its reference form and through torch's fused kernel."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from gatestream.model.cell import Gates, LSTMCell
from gatestream.model.config import NetworkConfig
from gatestream.model.encoder import Denormalise, build_encoder

__all__ = ["Network", "NetworkConfig", "State"]

State = tuple[Tensor, Tensor]
"""(h, c), each float32 [batch, layers, hidden]."""


class Network(nn.Module):
    """A recurrent network that takes one step at a time.

    `step` is the definition; `forward` is `step` over time; `fast` computes the same through torch's fused
    LSTM on the same parameters, without showing the gates.

    Attributes:
        config: what it is made of.
        encoder: input of one step to float32 [..., config.encoded].
        cells: `config.layers` cells, the first takes the encoder's output.
        head: linear map of the last cell's h to `config.outputs`.
        denormalise: the head's numbers to the units of the output.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config)
        widths = [config.encoded] + [config.hidden] * (config.layers - 1)
        self.cells = nn.ModuleList(LSTMCell(width, config.hidden) for width in widths)
        self.head = nn.Linear(config.hidden, config.outputs)
        self.denormalise = Denormalise(config.output_mean, config.output_scale) if config.output_mean else nn.Identity()

    def initial_state(self, batch: int) -> State:
        """Zeros: the state of `batch` sessions that have seen nothing."""
        shape = (batch, self.config.layers, self.config.hidden)
        return self.head.weight.new_zeros(shape), self.head.weight.new_zeros(shape)

    def encode(self, x: Tensor) -> Tensor:
        """Input to what the first cell takes.

        Args:
            x: token ids, int64 [...], or numbers in raw units, float32 [..., inputs].

        Returns:
            float32 [..., encoded].
        """
        encoded: Tensor = self.encoder(x)
        return encoded

    def decode(self, h: Tensor) -> Tensor:
        """The last layer's hidden state, float32 [..., hidden], to the output, float32 [..., outputs]."""
        y: Tensor = self.denormalise(self.head(h))
        return y

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State, Gates]:
        """Take one step.

        Args:
            x: token ids, int64 [batch], or numbers in raw units, float32 [batch, inputs].
            state: (h, c), each float32 [batch, layers, hidden].

        Returns:
            y, float32 [batch, outputs]: logits over the tokens, or numbers in raw units; the next state;
            and the gates' activations (i, f, g, o), each float32 [batch, layers, hidden].
        """
        h, c = state
        below = self.encode(x)  # [batch, encoded]
        steps: list[tuple[Tensor, Tensor, Gates]] = []
        for layer, cell in enumerate(self.cells):
            steps.append(cell(below, h[:, layer], c[:, layer]))
            below = steps[-1][0]  # [batch, hidden]
        h_next = torch.stack([h for h, _, _ in steps], dim=1)  # [batch, layers, hidden]
        c_next = torch.stack([c for _, c, _ in steps], dim=1)  # [batch, layers, hidden]
        return self.decode(below), (h_next, c_next), _stack([gates for _, _, gates in steps])

    def forward(self, xs: Tensor, state: State) -> tuple[Tensor, State, Gates]:
        """Take the steps of `xs` one after another.

        Args:
            xs: token ids, int64 [batch, time], or numbers in raw units, float32 [batch, time, inputs].
            state: (h, c), each float32 [batch, layers, hidden].

        Returns:
            ys, float32 [batch, time, outputs]; the state after the last step; and the gates' activations
            (i, f, g, o), each float32 [batch, time, layers, hidden].
        """
        ys: list[Tensor] = []
        gates: list[Gates] = []
        for x in xs.unbind(dim=1):
            y, state, activations = self.step(x, state)
            ys.append(y)
            gates.append(activations)
        return torch.stack(ys, dim=1), state, _stack(gates)

    def fast(self, xs: Tensor, state: State) -> tuple[Tensor, State]:
        """`forward` without the gates, through torch's fused LSTM kernel; gradients reach every parameter.

        Args:
            xs: as for `forward`.
            state: as for `forward`.

        Returns:
            ys, float32 [batch, time, outputs], and the state after the last step.
        """
        h, c = (part.transpose(0, 1).contiguous() for part in state)  # [layers, batch, hidden]
        weights: list[Tensor] = []
        for cell in cast(Iterable[LSTMCell], self.cells):
            W, R, b = cell.packed()
            weights += [W, R, b, torch.zeros_like(b)]  # the kernel adds two biases, the cell has one
        hs, h, c = torch.lstm(
            self.encode(xs),  # [batch, time, encoded]
            (h, c),
            weights,
            has_biases=True,
            num_layers=self.config.layers,
            dropout=0.0,
            train=self.training,
            bidirectional=False,
            batch_first=True,
        )  # hs [batch, time, hidden]
        return self.decode(hs), (h.transpose(0, 1), c.transpose(0, 1))


def _stack(gates: list[Gates]) -> Gates:
    """Gates of layers, or of steps, along a new second axis."""
    i, f, g, o = (torch.stack(gate, dim=1) for gate in zip(*gates, strict=True))
    return i, f, g, o

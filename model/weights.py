"""Weights into and out of torch's own nn.LSTM and nn.LSTMCell, by total maps.

Torch packs the four gates of a layer one below another, in the order `gatestream.model.cell.GATES`, and has
two biases that it only ever adds: a cell here has one. In: the bias is their sum. Out: `bias_ih` is the cell's
bias and `bias_hh` is zero; training that module further moves both alike, and their sum still comes back.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gatestream.model.cell import GATES, LSTMCell


class WeightsError(ValueError):
    """Weights do not fit; the message lists every name that is missing, unexpected or of a wrong shape."""


def require_same(expected: Mapping[str, torch.Size], given: Mapping[str, Tensor], source: str) -> None:
    """Check that `given` has exactly the names and shapes of `expected`.

    Raises:
        WeightsError: it has not; all differences are listed.
    """
    problems = [f"missing {name}" for name in expected if name not in given]
    problems += [f"unexpected {name}" for name in given if name not in expected]
    problems += [
        f"{name} is {list(given[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in given and given[name].shape != shape
    ]
    if problems:
        raise WeightsError(f"{source}: {'; '.join(problems)}")


def to_lstm(cells: Sequence[LSTMCell]) -> dict[str, Tensor]:
    """The state dict of an nn.LSTM (one direction, biases, no projection) that computes what `cells` do."""
    return {name: tensor for layer, cell in enumerate(cells) for name, tensor in _pack(cell, f"_l{layer}").items()}


def from_lstm(cells: Sequence[LSTMCell], state: Mapping[str, Tensor]) -> None:
    """Make `cells` compute what the nn.LSTM with this state dict does.

    Raises:
        WeightsError: names are missing or unexpected (another number of layers, no biases, a second
            direction, a projection), or shapes differ. Nothing is changed then.
    """
    expected = {name: tensor.shape for name, tensor in to_lstm(cells).items()}
    require_same(expected, state, "weights of an nn.LSTM")
    for layer, cell in enumerate(cells):
        _unpack(cell, state, f"_l{layer}")


def to_lstm_cell(cell: LSTMCell) -> dict[str, Tensor]:
    """The state dict of an nn.LSTMCell that computes what `cell` does."""
    return _pack(cell, "")


def from_lstm_cell(cell: LSTMCell, state: Mapping[str, Tensor]) -> None:
    """Make `cell` compute what the nn.LSTMCell with this state dict does.

    Raises:
        WeightsError: names are missing or unexpected, or shapes differ. Nothing is changed then.
    """
    expected = {name: tensor.shape for name, tensor in _pack(cell, "").items()}
    require_same(expected, state, "weights of an nn.LSTMCell")
    _unpack(cell, state, "")


def _pack(cell: LSTMCell, suffix: str) -> dict[str, Tensor]:
    W, R, b = (packed.detach() for packed in cell.packed())
    return {
        f"weight_ih{suffix}": W,  # [4 * hidden, inputs]
        f"weight_hh{suffix}": R,  # [4 * hidden, hidden]
        f"bias_ih{suffix}": b,  # [4 * hidden]
        f"bias_hh{suffix}": torch.zeros_like(b),
    }


def _unpack(cell: LSTMCell, state: Mapping[str, Tensor], suffix: str) -> None:
    W = state[f"weight_ih{suffix}"]  # [4 * hidden, inputs]
    R = state[f"weight_hh{suffix}"]  # [4 * hidden, hidden]
    b = state[f"bias_ih{suffix}"] + state[f"bias_hh{suffix}"]  # [4 * hidden]
    rows = (packed.chunk(len(GATES)) for packed in (W, R, b))
    for name, W_gate, R_gate, b_gate in zip(GATES, *rows, strict=True):
        cell.get_submodule(name).load_state_dict({"W": W_gate, "R": R_gate, "b": b_gate})

"""The gates of an LSTM and of a GRU, and their order where the ONNX LSTM operator packs them.

It stacks those of W, R and B as i, o, f, c (operator LSTM, inputs W and R), where its c is the cell candidate g.
torch's order is `gatestream.model.cell.GATES`, which is also that of `ROLES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

ONNX_ORDER = "iofg"
ONNX_ORDER_NAME = "iofc"
"""`ONNX_ORDER` in the operator's own letters, as it stands in ModelSpec.packed_gate_order."""


@dataclass(frozen=True, slots=True)
class Role:
    """What one gate is called, and its nonlinearity.

    Attributes:
        symbol: in the equations, and the graph's output with its activations.
        name: in ModelSpec.
        module: in the names of its parameters, `cells.0.<module>.R`.
        activation: the ONNX operator.
    """

    symbol: str
    name: str
    module: str
    activation: str


ROLES = (
    Role("i", "input", "input_gate", "Sigmoid"),
    Role("f", "forget", "forget_gate", "Sigmoid"),
    Role("g", "candidate", "cell_candidate", "Tanh"),
    Role("o", "output", "output_gate", "Sigmoid"),
)
BY_SYMBOL = {role.symbol: role for role in ROLES}

GRU_ROLES = (
    Role("r", "reset", "reset_gate", "Sigmoid"),
    Role("z", "update", "update_gate", "Sigmoid"),
    Role("n", "candidate", "candidate", "Tanh"),
)

OF_CELL: Mapping[str, tuple[Role, ...]] = {"LSTM": ROLES, "GRU": GRU_ROLES, "RNN": ()}
"""The gates of each kind of cell. An RNN has none."""


def modules_of(kind: str) -> dict[str, str]:
    """How the weights of a cell are named, by symbol: those of an RNN's one sum, `n`, have no module."""
    return {role.symbol: role.module for role in OF_CELL[kind]} or {"n": ""}


def pack(gates: Mapping[str, Array], order: str) -> Array:
    """Stack what belongs to each gate along the first axis.

    Args:
        gates: by symbol, each [hidden, ...].
        order: symbols, first to last.

    Returns:
        [4 * hidden, ...].
    """
    return np.concatenate([gates[symbol] for symbol in order])


def unpack(packed: Array, order: str) -> dict[str, Array]:
    """Undo `pack`: [4 * hidden, ...] to each gate's [hidden, ...]."""
    return dict(zip(order, np.split(packed, len(order)), strict=True))

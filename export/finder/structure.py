"""What data flow shows of a file: its cells, their gates, the states and where each was found.

The gates are those tensors that play their part in `c' = f * c + i * g` and `h' = o * tanh(c')`, whatever
they are called.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gatestream.protos.roles import Array


@dataclass(frozen=True, slots=True)
class Weight:
    """Where a weight was found, and what it holds.

    Attributes:
        initializer: its name in the file.
        rows: which part of the initializer it is; empty: all of it.
        array: what it stands for, float32, W [hidden, inputs], R [hidden, hidden], b [hidden], however it is stored.
        dtype: of the initializer: "float32", "float16" or "int8".
    """

    initializer: str
    rows: str
    array: Array = field(repr=False)
    dtype: str = "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of `array`."""
        return self.array.shape

    def __str__(self) -> str:
        """As it is written in a report."""
        return self.initializer + self.rows


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate of one cell.

    Attributes:
        symbol: i, f, g or o: the part it plays.
        activation: the tensor with its activations; empty inside an LSTM operator.
        W: weights of the input.
        R: weights of the hidden state.
        b: bias, the sum of all that are added.
    """

    symbol: str
    activation: str
    W: Weight
    R: Weight
    b: Weight


@dataclass(frozen=True, slots=True)
class Cell:
    """One layer's cell.

    Attributes:
        node: the operation that holds it: a Scan for form `gates`, an LSTM for form `fused`.
        gates: by symbol.
        x: the tensor that it takes as input.
        h: the tensor with the hidden state before the step.
        c: the tensor with the cell state before the step.
        h_next: the tensor with the hidden state after the step.
        c_next: the tensor with the cell state after the step.
    """

    node: str
    gates: Mapping[str, Gate]
    x: str
    h: str
    c: str
    h_next: str
    c_next: str


@dataclass(frozen=True, slots=True)
class Structure:
    """All that was found.

    Attributes:
        fused: the cells are LSTM operators.
        cells: lowest layer first.
        hidden: the graph's input and output with the hidden states.
        cell: the graph's input and output with the cell states.
        length: the graph's input after which rows are frozen.
        activations: by symbol, the graph's output with each gate's activations; empty for form `fused`.
        below: the graph inputs and initializers that the first cell's input is computed from.
        above: the graph inputs and initializers, besides the last cell's hidden state, that the first
            output is computed from.
    """

    fused: bool
    cells: tuple[Cell, ...]
    hidden: tuple[str, str]
    cell: tuple[str, str]
    length: str
    activations: Mapping[str, str]
    below: tuple[str, ...]
    above: tuple[str, ...]

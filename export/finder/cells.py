"""The cells of anybody's model, as data flow shows them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from gatestream.export.finder.operators import Activation, Operator
from gatestream.export.finder.structure import Weight


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate of one cell.

    Attributes:
        symbol: i, f, g or o of an LSTM; r, z or n of a GRU: the part it plays.
        activation: the tensor with its activations; None: it is inside an operator.
        function: the nonlinearity.
        W: weights of the input; None: it has none of its own, as a forget gate that is 1 - i.
        R: weights of the hidden state.
        b: all biases that are added up; none where there are none.
        b_R: of a GRU's candidate: those that are added before it is reset.
        p: the peephole's.
    """

    symbol: str
    activation: ir.Value | None
    function: Activation
    W: Weight | None
    R: Weight | None
    b: Weight | None = None
    b_R: Weight | None = None  # noqa: N815 (the name of the equations)
    p: Weight | None = None

    @property
    def weights(self) -> dict[str, Weight]:
        """Those that it has, by W, R, b, b_R and p."""
        named = {"W": self.W, "R": self.R, "b": self.b, "b_R": self.b_R, "p": self.p}
        return {name: weight for name, weight in named.items() if weight is not None}


@dataclass(frozen=True, slots=True)
class FoundCell:
    """One cell.

    Attributes:
        name: of its operator, or what its weights' names have in common; no other cell has it.
        kind: LSTM, GRU or RNN.
        graph: in which it stands.
        holder: the operator, or the Scan, Loop or If in whose body its equations are; None: the model's own graph.
        operator: it is one; None: it is equations.
        hidden: units.
        gates: by symbol; of an RNN, n.
        x: what it takes as input.
        h: the hidden state before the step; None: an operator that starts from zeros.
        c: an LSTM's cell state before the step.
        h_next: the hidden state after the step.
        c_next: an LSTM's cell state after the step.
        clip: what the activations are applied to is held between -clip and clip; None: it is not.
        squash: what an LSTM applies to its cell state on its way out.
        linear_before_reset: a GRU's reset gate is applied behind the recurrent product.
        complement: a GRU's z lets the candidate through, and 1 - z the state: the other way round than ONNX has it.
        coupled: an LSTM's forget gate is 1 - its input gate.
        alike: x and h take equal parts in the equations, which do not tell one from the other.
    """

    name: str
    kind: str
    graph: ir.Graph = field(repr=False)
    holder: ir.Node | None = field(repr=False)
    operator: Operator | None = field(repr=False)
    hidden: int
    gates: Mapping[str, Gate]
    x: ir.Value
    h: ir.Value | None
    c: ir.Value | None
    h_next: ir.Value | None
    c_next: ir.Value | None
    clip: float | None = None
    squash: Activation | None = None
    linear_before_reset: bool = False
    complement: bool = False
    coupled: bool = False
    alike: bool = False

    @property
    def functions(self) -> list[Activation] | None:
        """The nonlinearities in ONNX's order; None: its gates have unlike ones."""
        named = {symbol: gate.function for symbol, gate in self.gates.items() if gate.W is not None}
        candidate = named.pop("g" if self.kind == "LSTM" else "n")
        if self.kind == "RNN":
            return [candidate]
        if len(set(named.values())) != 1:
            return None
        return [next(iter(named.values())), candidate, *([self.squash] if self.squash is not None else [])]

    @property
    def where(self) -> str:
        """What it stands in, for a person."""
        if self.operator is not None:
            return f"operator {self.kind}"
        return f"equations in {self.holder.op_type} '{self.holder.name}'" if self.holder is not None else "equations"

"""The operators LSTM, GRU and RNN, taken apart: each gate's own weights, and what the attributes change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from gatestream.export.errors import StructureError
from gatestream.export.graph.constants import Constant, Resolve, known
from gatestream.export.graph.flow import integer, label

KINDS = ("LSTM", "GRU", "RNN")

ORDERS = {"LSTM": "iofg", "GRU": "zrn", "RNN": "n"}
"""In which order each operator packs its gates, by the symbols of the equations: its c is the candidate g, its h of a
GRU the candidate n. An RNN has one, which is its next hidden state."""

PEEPHOLES = "iof"
"""The order in P of an LSTM."""

_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}

PARAMETERS: Mapping[str, tuple[float | None, float | None]] = {
    "Affine": (1.0, 0.0),
    "Elu": (1.0, None),
    "HardSigmoid": (0.2, 0.5),
    "LeakyRelu": (0.01, None),
    "Relu": (None, None),
    "ScaledTanh": (1.0, 1.0),
    "Sigmoid": (None, None),
    "Softplus": (None, None),
    "Softsign": (None, None),
    "Tanh": (None, None),
    "ThresholdedRelu": (1.0, None),
}
"""The activations that ONNX lists, with the alpha and beta that each has where the operator gives none."""

COMPOUND = ("Affine", "ScaledTanh")
"""Those of them that are no operators of ONNX."""


@dataclass(frozen=True, slots=True)
class Activation:
    """A nonlinearity of a cell.

    Attributes:
        name: as ONNX lists it.
        alpha: None: it has none.
        beta: None: it has none.
    """

    name: str
    alpha: float | None = None
    beta: float | None = None

    def __str__(self) -> str:
        """As it is printed."""
        given = [f"{number:g}" for number in (self.alpha, self.beta) if number is not None]
        return f"{self.name}({', '.join(given)})" if given else self.name


@dataclass(frozen=True, slots=True)
class Part:
    """What one gate has.

    Attributes:
        W: of the input, [hidden, inputs].
        R: of the hidden state, [hidden, hidden].
        b: added to the product with the input, [hidden]; None: the operator has no biases.
        b_R: added to the product with the hidden state, [hidden].
        p: the peephole's, [hidden]; None: it has none.
        rows: of W and R along their second axis.
        bias_rows: of B along its second axis: those of b, and those of b_R.
    """

    W: NDArray[Any] = field(repr=False)
    R: NDArray[Any] = field(repr=False)
    b: NDArray[Any] | None = field(repr=False)
    b_R: NDArray[Any] | None = field(repr=False)  # noqa: N815 (the name of the equations)
    p: NDArray[Any] | None = field(repr=False)
    rows: tuple[int, int]
    bias_rows: tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Operator:
    """An LSTM, GRU or RNN that goes forward over its input.

    Attributes:
        node: of the graph.
        kind: LSTM, GRU or RNN.
        hidden: units.
        parts: by symbol, in the operator's order.
        activations: f, g and h of an LSTM, f and g of a GRU, f of an RNN.
        clip: what the activations are applied to is held between -clip and clip; None: it is not.
        layout: 0: [time, batch, ...]; 1: [batch, time, ...].
        input_forget: an LSTM's forget gate is 1 - its input gate.
        linear_before_reset: a GRU's reset gate is applied behind the recurrent product.
        W: where the weights stand.
        R: where the weights stand.
        B: where the biases stand; None: there are none.
        P: where the peepholes stand; None: there are none.
    """

    node: ir.Node
    kind: str
    hidden: int
    parts: Mapping[str, Part]
    activations: tuple[Activation, ...]
    clip: float | None
    layout: int
    input_forget: bool
    linear_before_reset: bool
    W: Constant
    R: Constant
    B: Constant | None
    P: Constant | None

    def input(self, which: str) -> ir.Value | None:
        """One of the operator's inputs by its name in ONNX: X, sequence_lens, initial_h or initial_c."""
        return _input(self.node, which)


def is_operator(node: ir.Node) -> bool:
    """Whether a node is one of ONNX's LSTM, GRU and RNN."""
    return node.domain == "" and node.op_type in KINDS


def read(node: ir.Node, resolve: Resolve = lambda value: value) -> Operator:
    """Take an LSTM, GRU or RNN apart.

    Args:
        node: the operator.
        resolve: what a tensor stands for, where the operator stands in a body that is handed it.

    Raises:
        StructureError: it goes backwards, or its weights are computed at run time, have other shapes than they should,
            or its attributes are none that ONNX knows.
    """
    kind = node.op_type
    called = f"{kind} '{node.name}'"
    direction = node.attributes["direction"].as_string() if "direction" in node.attributes else "forward"
    if direction != "forward":
        raise StructureError(f"{called} is {direction}: it reads what has not come yet; only forward cells can stream")
    W, R = (_constant(node, which, resolve) for which in "WR")
    B, P = (_constant(node, which, resolve) if _input(node, which) is not None else None for which in "BP")
    order = ORDERS[kind]
    hidden = integer(node, "hidden_size", W.array.shape[1] // len(order))
    shapes = {
        "W": (1, len(order) * hidden, W.array.shape[-1]),
        "R": (1, len(order) * hidden, hidden),
        "B": (1, 2 * len(order) * hidden),
        "P": (1, 3 * hidden),
    }
    for which, found in zip("WRBP", (W, R, B, P), strict=True):
        if found is not None and found.array.shape != shapes[which]:
            raise StructureError(
                f"{called}: its {which} '{found.name}' is {list(found.array.shape)}, expected {list(shapes[which])} "
                f"for a hidden_size of {hidden}"
            )
    return Operator(
        node=node,
        kind=kind,
        hidden=hidden,
        parts=_parts(order, hidden, W, R, B, P),
        activations=_activations(node),
        clip=node.attributes["clip"].as_float() if "clip" in node.attributes else None,
        layout=integer(node, "layout", 0),
        input_forget=bool(integer(node, "input_forget", 0)),
        linear_before_reset=bool(integer(node, "linear_before_reset", 0)),
        W=W,
        R=R,
        B=B,
        P=P,
    )


def _input(node: ir.Node, which: str) -> ir.Value | None:
    k = _INPUTS.index(which)
    return node.inputs[k] if k < len(node.inputs) else None


def _constant(node: ir.Node, which: str, resolve: Resolve) -> Constant:
    value = _input(node, which)
    found = known(value, resolve)
    if found is None:
        raise StructureError(
            f"{node.op_type} '{node.name}' takes its {which} from {label(value)}, which is computed at run time; "
            "its gates can only be shown where it is a constant"
        )
    return found


def _parts(
    order: str, hidden: int, W: Constant, R: Constant, B: Constant | None, P: Constant | None
) -> dict[str, Part]:
    parts = {}
    for k, symbol in enumerate(order):
        rows = k * hidden, (k + 1) * hidden
        second = rows[0] + len(order) * hidden, rows[1] + len(order) * hidden
        peephole = PEEPHOLES.find(symbol) * hidden
        parts[symbol] = Part(
            W=W.array[0, slice(*rows)],
            R=R.array[0, slice(*rows)],
            b=None if B is None else B.array[0, slice(*rows)],
            b_R=None if B is None else B.array[0, slice(*second)],
            p=None if P is None or peephole < 0 else P.array[0, peephole : peephole + hidden],
            rows=rows,
            bias_rows=(rows, second),
        )
    return parts


def _activations(node: ir.Node) -> tuple[Activation, ...]:
    """The operator's, each with the alpha and beta that are given for it.

    Each list has numbers for those activations alone that take one, in order (ONNX; onnxruntime reads them so).
    """
    expected = DEFAULTS[node.op_type]
    names: Sequence[str] = expected
    if "activations" in node.attributes:
        names = node.attributes["activations"].as_strings()
    by_name = {name.lower(): name for name in PARAMETERS}
    if len(names) != len(expected) or any(name.lower() not in by_name for name in names):
        raise StructureError(
            f"{node.op_type} '{node.name}' has activations {list(names)}; expected {len(expected)} of "
            f"{', '.join(PARAMETERS)}"
        )
    given = [
        list(node.attributes[name].as_floats()) if name in node.attributes else []
        for name in ("activation_alpha", "activation_beta")
    ]
    found = []
    for name in names:
        canonical = by_name[name.lower()]
        numbers = [
            None if default is None else (numbers.pop(0) if numbers else default)
            for default, numbers in zip(PARAMETERS[canonical], given, strict=True)
        ]
        found.append(Activation(canonical, *numbers))
    return tuple(found)

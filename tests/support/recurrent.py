"""LSTM, GRU and RNN as ONNX defines them, read in NumPy, and graphs that hold one.

Written from the operators' documentation, and from what onnxruntime does where that says nothing: it shares nothing
with the product.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from gatestream.protos import spec as specs
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.weights import intact_fingerprint

Numbers = NDArray[Any]

GATES = {"LSTM": "iofg", "GRU": "zrn", "RNN": "n"}
USUAL: dict[str, tuple[Any, ...]] = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}

ACTIVATIONS: dict[str, tuple[int, Callable[..., Numbers]]] = {
    "Affine": (2, lambda x, a, b: a * x + b),
    "Elu": (1, lambda x, a: np.where(x < 0, a * (np.exp(np.minimum(x, 0)) - 1), x)),
    "HardSigmoid": (2, lambda x, a, b: np.clip(a * x + b, 0, 1)),
    "LeakyRelu": (1, lambda x, a: np.where(x < 0, a * x, x)),
    "Relu": (0, lambda x: np.maximum(x, 0)),
    "ScaledTanh": (2, lambda x, a, b: a * np.tanh(b * x)),
    "Sigmoid": (0, lambda x: (1 + np.tanh(x / 2)) / 2),
    "Softplus": (0, lambda x: np.logaddexp(np.zeros_like(x), x)),
    "Softsign": (0, lambda x: x / (1 + np.abs(x))),
    "Tanh": (0, np.tanh),
    "ThresholdedRelu": (1, lambda x, a: np.where(x > a, x, 0)),
}
"""How many of alpha and beta each takes, and what it is."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One operator, its weights and its attributes.

    An activation is its name, or its name with its alpha and beta. Weights are laid out as the operator takes them,
    without the axis of directions.
    """

    kind: str
    W: Numbers = field(repr=False)
    R: Numbers = field(repr=False)
    B: Numbers | None = field(repr=False, default=None)
    P: Numbers | None = field(repr=False, default=None)
    activations: tuple[Any, ...] = ()
    clip: float | None = None
    input_forget: bool = False
    linear_before_reset: bool = False

    @property
    def hidden(self) -> int:
        return int(self.R.shape[1])

    @property
    def states(self) -> str:
        return "hc" if self.kind == "LSTM" else "h"

    def with_options(self, **options: Any) -> "Cell":
        return replace(self, **options)


def random(
    kind: str, inputs: int, hidden: int, rng: np.random.Generator, *, bias: bool = True, peepholes: bool = False
) -> Cell:
    gates = len(GATES[kind])

    def numbers(*shape: int) -> Numbers:
        return rng.normal(0, 0.6, shape).astype(np.float32)

    return Cell(
        kind,
        numbers(gates * hidden, inputs),
        numbers(gates * hidden, hidden),
        numbers(2 * gates * hidden) if bias else None,
        numbers(3 * hidden) if peepholes else None,
    )


def run(
    cell: Cell,
    x: Numbers,
    states: Sequence[Numbers],
    lengths: Sequence[int] | None = None,
    dtype: type[np.floating[Any]] = np.float64,
) -> dict[str, Numbers]:
    """The operator's numbers.

    Args:
        cell: what to run.
        x: [time, batch, inputs].
        states: h, and of an LSTM c, [batch, hidden].
        lengths: steps of each row; None: all.
        dtype: to compute in.

    Returns:
        y [time, batch, hidden]; h and c after the last step, [batch, hidden]; each gate's activations by its symbol,
        [batch, time, hidden].
    """
    names = GATES[cell.kind]
    count, hidden = len(names), cell.hidden
    W, R = (dict(zip(names, np.split(each.astype(dtype), count), strict=True)) for each in (cell.W, cell.R))
    B = np.zeros(2 * count * hidden) if cell.B is None else cell.B
    biases = np.split(B.astype(dtype), 2 * count)
    Wb, Rb = dict(zip(names, biases, strict=False)), dict(zip(names, biases[count:], strict=True))
    P = np.zeros(3 * hidden) if cell.P is None else cell.P
    p = dict(zip("iof", np.split(P.astype(dtype), 3), strict=True))
    functions = [_function(each) for each in cell.activations or USUAL[cell.kind]]

    def clipped(values: Numbers) -> Numbers:
        return values if cell.clip is None else np.clip(values, -cell.clip, cell.clip)

    def total(gate: str, x: Numbers, h: Numbers) -> Numbers:
        values: Numbers = x @ W[gate].T + h @ R[gate].T + Wb[gate] + Rb[gate]
        return values

    h, *rest = (each.astype(dtype) for each in states)
    c = rest[0] if rest else None
    ends = np.full(len(h), len(x)) if lengths is None else np.array(lengths)
    h = np.where(ends[:, None] > 0, h, 0)
    c = None if c is None else np.where(ends[:, None] > 0, c, 0)
    ys, gates = [], []
    for t, below in enumerate(x.astype(dtype)):
        f, *more = functions
        if c is not None:
            g, squash = more
            i = f(clipped(total("i", below, h) + p["i"] * c))
            forget = 1 - i if cell.input_forget else f(clipped(total("f", below, h) + p["f"] * c))
            candidate = g(clipped(total("g", below, h)))
            c_next = forget * c + i * candidate
            o = f(clipped(total("o", below, h) + p["o"] * c_next))
            h_next = o * squash(c_next)
            gates.append({"i": i, "f": forget, "g": candidate, "o": o})
        elif cell.kind == "GRU":
            z, r = f(clipped(total("z", below, h))), f(clipped(total("r", below, h)))
            if cell.linear_before_reset:
                behind = r * (h @ R["n"].T + Rb["n"])
                n = more[0](clipped(below @ W["n"].T + Wb["n"] + behind))
            else:
                n = more[0](clipped(total("n", below, r * h)))
            h_next, c_next = (1 - z) * n + z * h, None
            gates.append({"z": z, "r": r, "n": n})
        else:
            h_next, c_next = f(clipped(total("n", below, h))), None
            gates.append({})
        live = (t < ends)[:, None]
        ys.append(np.where(live, h_next, 0))
        h = np.where(live, h_next, h)
        c = None if c is None or c_next is None else np.where(live, c_next, c)
    found = {"y": np.stack(ys), "h": h}
    if c is not None:
        found["c"] = c
    return found | {gate: np.stack([step[gate] for step in gates], axis=1) for gate in gates[0]}


def allowed(
    cell: Cell, x: Numbers, states: Sequence[Numbers], lengths: Sequence[int] | None = None
) -> tuple[dict[str, Numbers], dict[str, float]]:
    """The true numbers, and how far another float32 program may be from each: 16 times what NumPy's own loses, or four
    last bits of the largest.

    Of the float32 runs, one starts from the true states and four from states one bit beside them.
    """
    truth = run(cell, x, states, lengths)
    lost = dict.fromkeys(truth, 0.0)
    rng = np.random.default_rng(0)
    for k in range(5):
        near = [np.nextafter(each, np.float32(rng.choice([-9, 9]))) if k else each for each in states]
        single = run(cell, x, near, lengths, np.float32)
        for name, values in truth.items():
            lost[name] = max(lost[name], float(np.abs(single[name] - values).max(initial=0)))
    bits = {
        name: 4 * float(np.finfo(np.float32).eps) * float(np.abs(values).max(initial=0))
        for name, values in truth.items()
    }
    return truth, {name: max(1e-6, 16 * off, bits[name]) for name, off in lost.items()}


def _function(activation: Any) -> Callable[[Numbers], Numbers]:
    name, *numbers = (activation,) if isinstance(activation, str) else activation
    count, function = ACTIVATIONS[name]
    assert len(numbers) == count, f"{name} takes {count} numbers"
    return lambda x: function(x, *numbers)


def _attributes(cell: Cell) -> dict[str, Any]:
    attributes: dict[str, Any] = {"hidden_size": cell.hidden}
    if cell.activations:
        split = [(each,) if isinstance(each, str) else tuple(each) for each in cell.activations]
        attributes["activations"] = [each[0] for each in split]
        for key, at in (("activation_alpha", 1), ("activation_beta", 2)):
            if numbers := [each[at] for each in split if len(each) > at]:
                attributes[key] = numbers
    options = {"clip": cell.clip, "input_forget": int(cell.input_forget) or None}
    options["linear_before_reset"] = int(cell.linear_before_reset) or None
    return attributes | {key: value for key, value in options.items() if value is not None}


def model(
    cell: Cell,
    *,
    lengths: bool = False,
    initial: bool = True,
    layout: int = 0,
    direction: str = "forward",
    opset: int = 20,
    squeezed: bool = False,
    name: str = "rnn",
) -> onnx.ModelProto:
    """A graph of one operator: X, lengths, initial_h and initial_c in, Y, Y_h and Y_c out.

    Args:
        cell: the operator.
        lengths: takes sequence_lens.
        initial: takes initial states.
        layout: of the operator.
        direction: of the operator.
        opset: of the model.
        squeezed: the axis of directions is taken off in the graph, as exporters do.
        name: of the node.
    """
    batch_first = layout == 1
    letters = cell.states
    tensors = {"W": cell.W[None], "R": cell.R[None]}
    tensors |= {key: each[None] for key, each in (("B", cell.B), ("P", cell.P)) if each is not None}
    inputs = ["X", "W", "R", "B" if cell.B is not None else "", "lengths" if lengths else ""]
    inputs += [f"initial_{letter}" if initial else "" for letter in letters]
    if cell.P is not None:
        inputs.append("P")
    while not inputs[-1]:
        inputs.pop()
    attributes = _attributes(cell)
    if direction != "forward":
        attributes["direction"] = direction
    if batch_first:
        attributes["layout"] = 1
    outputs = ["Y", *(f"Y_{letter}" for letter in letters)]
    node = helper.make_node(
        cell.kind, inputs, [f"{each}_" for each in outputs] if squeezed else outputs, name, **attributes
    )

    hidden = cell.hidden
    batch, time = "batch", "time"
    order: list[str | int] = [batch, time] if batch_first else [time, batch]
    state: list[str | int] = [batch, hidden] if squeezed else [batch, 1, hidden] if batch_first else [1, batch, hidden]
    wide: list[str | int] = order if squeezed else [*order, 1] if batch_first else [time, 1, batch]
    state_inputs = [f"initial_{letter}" for letter in letters] if initial else []
    nodes = [node]
    if squeezed:
        axes = {"Y": 2 if batch_first else 1} | {f"Y_{letter}": 1 if batch_first else 0 for letter in letters}
        tensors |= {f"axes_{k}": np.array([k], np.int64) for k in set(axes.values())}
        for key, axis in axes.items():
            nodes.append(helper.make_node("Squeeze", [f"{key}_", f"axes_{axis}"], [key]))
        for key in reversed(state_inputs):
            node.input[list(node.input).index(key)] = f"{key}_"
            nodes.insert(0, helper.make_node("Unsqueeze", [key, f"axes_{axes[f'Y_{key[-1]}']}"], [f"{key}_"]))
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info("X", kind, [*order, cell.W.shape[1]]),
            *([helper.make_tensor_value_info("lengths", TensorProto.INT32, [batch])] if lengths else []),
            *(helper.make_tensor_value_info(each, kind, state) for each in state_inputs),
        ],
        [
            helper.make_tensor_value_info("Y", kind, [*wide, hidden]),
            *(helper.make_tensor_value_info(f"Y_{letter}", kind, state) for letter in letters),
        ],
        [numpy_helper.from_array(np.ascontiguousarray(array), key) for key, array in tensors.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(made)
    return made


def session(made: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])


def outputs(made: onnx.ModelProto, feed: Mapping[str, Numbers]) -> dict[str, Numbers]:
    """What onnxruntime makes of a graph, by output."""
    running = session(made)
    names = [each.name for each in running.get_outputs()]
    return dict(zip(names, running.run(None, dict(feed)), strict=True))


def streaming(cells: Sequence[Cell], *, length: bool = False) -> tuple[onnx.ModelProto, pb.ModelSpec]:
    """A graph of contract 2: cells one above another, each with its states as inputs and outputs.

    Args:
        cells: lowest first; they are called cell0, cell1 and so on.
        length: it takes how many steps of each row are real.
    """
    kind, state_inputs, state_outputs = TensorProto.FLOAT, [], []
    tensors: dict[str, Numbers] = {"axis_0": np.array([0], np.int64), "axis_1": np.array([1], np.int64)}
    nodes = [helper.make_node("Transpose", ["x"], ["xs"], perm=[1, 0, 2])]
    spec = pb.ModelSpec(
        contract=2,
        name="streaming",
        version="1",
        inputs=[pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT32, shape=[cells[0].W.shape[1]])],
        outputs=[pb.TensorSpec(name="y", dtype=pb.DATA_TYPE_FLOAT32, shape=[cells[-1].hidden])],
        length_input="length" if length else "",
        opset=20,
        weights_fingerprint="0" * 64,
    )
    below = "xs"
    for k, cell in enumerate(cells):
        name, states = f"cell{k}", [f"cell{k}_{letter}" for letter in cell.states]
        for state in states:
            nodes.append(helper.make_node("Unsqueeze", [state, "axis_0"], [f"{state}_wide"]))
            state_inputs.append(helper.make_tensor_value_info(state, kind, ["batch", cell.hidden]))
            state_outputs.append(helper.make_tensor_value_info(f"{state}_next", kind, ["batch", cell.hidden]))
            spec.states.add(input=state, output=f"{state}_next", dtype=pb.DATA_TYPE_FLOAT32, shape=[cell.hidden])
        held = {f"{name}.{key}": getattr(cell, key) for key in "WRBP"}
        tensors |= {key: array[None] for key, array in held.items() if array is not None}
        inputs = [
            below,
            f"{name}.W",
            f"{name}.R",
            f"{name}.B" if cell.B is not None else "",
            "length" if length else "",
        ]
        inputs += [f"{state}_wide" for state in states] + ([f"{name}.P"] if cell.P is not None else [])
        node = helper.make_node(
            cell.kind, inputs, [f"{name}_Y", *(f"{state}_left" for state in states)], name, **_attributes(cell)
        )
        nodes.append(node)
        nodes += [helper.make_node("Squeeze", [f"{state}_left", "axis_0"], [f"{state}_next"]) for state in states]
        nodes.append(helper.make_node("Squeeze", [f"{name}_Y", "axis_1"], [f"{name}_hs"]))
        below = f"{name}_hs"
        spec.cells.add(
            name=name,
            kind=pb.CellKind.Value(f"CELL_KIND_{cell.kind}"),
            hidden=cell.hidden,
            states=states,
            linear_before_reset=cell.linear_before_reset,
        )
    nodes.append(helper.make_node("Transpose", [below], ["y"], perm=[1, 0, 2]))
    graph = helper.make_graph(
        nodes,
        "streaming",
        [
            helper.make_tensor_value_info("x", kind, ["batch", "time", cells[0].W.shape[1]]),
            *([helper.make_tensor_value_info("length", TensorProto.INT32, ["batch"])] if length else []),
            *state_inputs,
        ],
        [helper.make_tensor_value_info("y", kind, ["batch", "time", cells[-1].hidden]), *state_outputs],
        [numpy_helper.from_array(np.ascontiguousarray(array), key) for key, array in tensors.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    spec.stored_fingerprint = intact_fingerprint(tensors)
    entry = made.metadata_props.add()
    entry.key, entry.value = specs.KEY, specs.to_json(spec)
    onnx.checker.check_model(made, full_check=True)
    return made, spec

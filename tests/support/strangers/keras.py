"""What keras' own export and tf2onnx write."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import TensorProto

from tests.support.strangers.graph import Graph
from tests.support.strangers.stranger import State, Stranger, Tensor

F, H = 3, 5
Step = Callable[[Graph, str, str, list[str], str], None]
"""Writes one step into a loop's body: x, h and the weights there, and what the next h is to be called."""

PRODUCER = "tf2onnx"


def keras_stateless(folder: Path) -> Stranger:
    """An LSTM whose starts are `Expand(0)` to [1, batch, hidden], the batch read off the input."""
    g = Graph("keras_stateless", PRODUCER, opset=15)
    x, y = g.input("args_0", ["unk__10", "unk__11", F]), g.output("dense", ["unk__10", "unk__11", 2])
    batch = g.node("Slice", g.node("Shape", x), *(g.constant([i]) for i in (0, 1, 0)))
    shape = g.node("Concat", g.constant([1]), batch, g.constant([H]), axis=0)
    starts = [g.node("Expand", g.constant([[[0.0]]]), shape) for _ in range(2)]
    g.lstm(g.node("Transpose", x, perm=[1, 0, 2]), F, H, *starts, out=["all", "", ""])
    ys = g.node("Transpose", g.node("Squeeze", "all", g.constant([1])), perm=[1, 0, 2])
    g.node("Add", g.node("MatMul", ys, g.weight(H, 2)), g.weight(2), out=y)
    return Stranger(g.name, g.save(folder), (Tensor(x),), (Tensor(y),), hidden=((H,), (H,)))


def keras_states(folder: Path) -> Stranger:
    """States [batch, hidden] that go through Unsqueeze and Squeeze; outputs are numbered."""
    g = Graph("keras_states", PRODUCER, opset=15)
    x = g.input("x", ["batch", "time", F])
    h, c = (g.input(f"input_{i}", ["batch", H]) for i in (2, 3))
    y = g.output("lstm", ["batch", "time", H])
    h_next, c_next = (g.output(f"lstm_{i}", ["batch", H]) for i in (1, 2))
    starts = [g.node("Unsqueeze", s, g.constant([0])) for s in (h, c)]
    g.lstm(g.node("Transpose", x, perm=[1, 0, 2]), F, H, *starts, out=["all", "yh", "yc"])
    g.node("Transpose", g.node("Squeeze", "all", g.constant([1])), perm=[1, 0, 2], out=y)
    g.node("Squeeze", "yh", g.constant([0]), out=h_next)
    g.node("Squeeze", "yc", g.constant([0]), out=c_next)
    states = State(h, h_next, 0), State(c, c_next, 0)
    return Stranger(g.name, g.save(folder), (Tensor(x),), (Tensor(y),), states)


def keras_stateful(folder: Path) -> Stranger:
    """`stateful=True`, whose writes the converter dropped: the start is a constant of the one batch."""
    g = Graph("keras_stateful", PRODUCER, opset=13)
    x, y = g.input("x", [1, "time", F]), g.output("y", [1, "time", H])
    g.gru(
        g.node("Transpose", x, perm=[1, 0, 2]),
        F,
        H,
        g.constant(np.zeros((1, 1, H), np.float32)),
        out=["all", ""],
        linear_before_reset=1,
    )
    g.node("Transpose", g.node("Squeeze", "all", g.constant([1])), perm=[1, 0, 2], out=y)
    return Stranger(g.name, g.save(folder), hidden=((H,),))


def gru_loop(folder: Path) -> Stranger:
    """tf2onnx's keras GRU: a `Loop` over time whose weights go through it as loop variables beside the state."""
    return _loop(folder, "gru_loop", _gru_step, weights=[(F, 3 * H), (H, 3 * H), (2, 3 * H)])


def rnn_loop(folder: Path) -> Stranger:
    """tf2onnx's keras SimpleRNN, likewise."""
    return _loop(folder, "rnn_loop", _rnn_step, weights=[(F, H), (H, H), (H,)])


def _loop(folder: Path, name: str, step: Step, weights: list[tuple[int, ...]]) -> Stranger:
    g = Graph(name, PRODUCER, opset=13)
    x, y = g.input("x", ["batch", "time", F]), g.output("y", ["batch", "time", H])
    by_time = g.node("Transpose", x, perm=[1, 0, 2])
    sizes = g.node("Shape", x)
    batch, steps = (g.node("Slice", sizes, *(g.constant([i]) for i in (at, at + 1, 0))) for at in (0, 1))
    zeros = g.node("ConstantOfShape", g.node("Concat", batch, g.constant([H]), axis=0))
    carried = [g.weight(*shape) for shape in weights]

    body = Graph(f"{name}_body", opset=13, prefix="body_")
    counter = body.input("i", [], TensorProto.INT64)
    body.input("go_in", [], TensorProto.BOOL)
    state = body.input("h_in", ["batch", H])
    inner = [body.input(f"loop_{value}", shape) for value, shape in zip(carried, weights, strict=True)]
    body.node("Identity", "go_in", out=body.output("go_out", [], TensorProto.BOOL))
    step(body, body.node("Gather", by_time, counter, axis=0), state, inner, body.output("h_out", ["batch", H]))
    for value, shape in zip(inner, weights, strict=True):
        body.node("Identity", value, out=body.output(f"{value}_out", list(shape)))
    body.node("Identity", "h_out", out=body.output("y_t", ["batch", H]))

    count = g.node("Squeeze", steps, g.constant([0]))
    ends = ["last", *(f"{value}_last" for value in carried), "all"]
    g.node("Loop", count, g.constant(True), zeros, *carried, out=ends, body=body.proto())
    g.node("Transpose", "all", perm=[1, 0, 2], out=y)
    return Stranger(g.name, g.save(folder), hidden=((H,),))


def _gru_step(body: Graph, x: str, h: str, weights: list[str], out: str) -> None:
    W, R, B = weights
    rows = [body.node("Gather", B, body.constant(i), axis=0) for i in range(2)]
    for value, matrix, row, name in ((x, W, rows[0], "x"), (h, R, rows[1], "h")):
        total = body.node("Add", body.node("MatMul", value, matrix), row)
        body.node("Split", total, out=[f"z{name}", f"r{name}", f"n{name}"], axis=1)
    z, r = (body.node("Sigmoid", body.node("Add", f"{gate}x", f"{gate}h")) for gate in "zr")
    n = body.node("Tanh", body.node("Add", "nx", body.node("Mul", r, "nh")))
    kept = body.node("Mul", z, h)
    body.node("Add", kept, body.node("Mul", body.node("Sub", body.constant(1.0), z), n), out=out)


def _rnn_step(body: Graph, x: str, h: str, weights: list[str], out: str) -> None:
    W, R, b = weights
    sums = body.node("Add", body.node("MatMul", x, W), body.node("MatMul", h, R))
    body.node("Tanh", body.node("Add", sums, b), out=out)


def scan(folder: Path) -> Stranger:
    """A `Scan` that starts from computed zeros: h' = tanh(x W + h R), by hand."""
    g = Graph("scan", opset=16)
    x, y = g.input("x", ["time", "batch", H]), g.output("y", ["time", "batch", H])
    zeros = g.node("Mul", g.node("Gather", x, g.constant(0), axis=0), g.constant(0.0))
    W, R = g.weight(H, H), g.weight(H, H)
    body = Graph("scan_body", opset=16, prefix="body_")
    h, x_t = body.input("h_in", ["batch", H]), body.input("x_t", ["batch", H])
    h_next, y_t = body.output("h_out", ["batch", H]), body.output("y_t", ["batch", H])
    body.node("Tanh", body.node("Add", body.node("MatMul", x_t, W), body.node("MatMul", h, R)), out=h_next)
    body.node("Identity", h_next, out=y_t)
    g.node("Scan", zeros, x, out=["last", y], body=body.proto(), num_scan_inputs=1)
    return Stranger(g.name, g.save(folder), (Tensor(x, 1, 0),), (Tensor(y, 1, 0),), hidden=((H,),))

"""Recurrent operators with their states in every layout that exporters and people give them."""

from pathlib import Path

from onnx import TensorProto

from tests.support.strangers.graph import Graph
from tests.support.strangers.stranger import State, Stranger, Tensor

F, H = 3, 5
TORCH = "pytorch"


def lstm_exposed(folder: Path) -> Stranger:
    """As torch writes h0 and c0 [layers, batch, hidden], batch first, the names telling nothing."""
    g = Graph("lstm_exposed", TORCH)
    x = g.input("onnx::Transpose_0", ["batch_size", "sequence", F])
    h, c = (g.input(f"onnx::{i}", [1, "batch_size", H]) for i in (1, 2))
    y, h_next, c_next = (
        g.output("31", ["batch_size", "sequence", H]),
        *(g.output(n, [1, "batch_size", H]) for n in ("28", "29")),
    )
    g.lstm(g.node("Transpose", x, perm=[1, 0, 2]), F, H, h, c, out=["all", h_next, c_next])
    g.node("Transpose", g.node("Squeeze", "all", g.constant([1])), perm=[1, 0, 2], out=y)
    return Stranger(g.name, g.save(folder), (Tensor(x),), (Tensor(y),), (State(h, h_next), State(c, c_next)))


def lstm_absent(folder: Path) -> Stranger:
    """No initial state at all: time first."""
    g = Graph("lstm_absent", TORCH, opset=14)
    x, y = g.input("x", ["time", "batch", F]), g.output("y", ["time", "batch", H])
    g.lstm(x, F, H, out=["all", "", ""])
    g.node("Squeeze", "all", g.constant([1]), out=y)
    return Stranger(g.name, g.save(folder), (Tensor(x, 1, 0),), (Tensor(y, 1, 0),), hidden=((H,), (H,)))


def lstm_computed_zeros(folder: Path) -> Stranger:
    """Starts as TorchScript writes `torch.zeros(1, x.size(0), H)`: of the input's own shape."""
    g = Graph("lstm_computed_zeros", TORCH, opset=11)
    x, y = g.input("x", ["batch", "time", F]), g.output("y", ["batch", "time", 2])
    batch = g.node("Gather", g.node("Shape", x), g.constant(0), axis=0)
    shape = g.node(
        "Concat",
        g.constant([1]),
        g.node("Unsqueeze", batch, axes=[0]),
        g.constant([H]),
        axis=0,
    )
    zeros = [g.node("Expand", g.constant([[[0.0]]]), shape), g.node("ConstantOfShape", shape)]
    g.lstm(g.node("Transpose", x, perm=[1, 0, 2]), F, H, *zeros, out=["all", "", ""])
    ys = g.node("Transpose", g.node("Squeeze", "all", axes=[1]), perm=[1, 0, 2])
    g.node("MatMul", ys, g.weight(H, 2), out=y)
    return Stranger(g.name, g.save(folder), hidden=((H,), (H,)))


def gru_two_layers(folder: Path, linear_before_reset: int = 1) -> Stranger:
    """One state [layers, batch, hidden] for two layers, cut and joined, as torch writes it."""
    g = Graph(f"gru_two_layers_{linear_before_reset}", TORCH)
    x, h = g.input("x", ["time", "batch", F]), g.input("h0", [2, "batch", H])
    y, h_next = g.output("y", ["time", "batch", H]), g.output("hn", [2, "batch", H])
    last = []
    layer, features = x, F
    for index in range(2):
        start = g.node("Slice", h, *(g.constant([i]) for i in (index, index + 1, 0)))
        last.append(f"last{index}")
        g.gru(layer, features, H, start, out=[f"all{index}", last[-1]], linear_before_reset=linear_before_reset)
        layer = g.node("Squeeze", f"all{index}", g.constant([1]), out=y if index else "")
        features = H
    g.node("Concat", *last, axis=0, out=h_next)
    return Stranger(g.name, g.save(folder), (Tensor(x, 1, 0),), (Tensor(y, 1, 0),), (State(h, h_next),))


def rnn_no_bias(folder: Path) -> Stranger:
    """RNN without biases, opset 7, its state hidden."""
    g = Graph("rnn_no_bias", opset=7)
    x, y = g.input("x", ["time", "batch", F]), g.output("y", ["time", "batch", H])
    g.rnn(x, F, H, out=["all"], bias=False)
    g.node("Squeeze", "all", axes=[1], out=y)
    return Stranger(g.name, g.save(folder), (Tensor(x, 1, 0),), (Tensor(y, 1, 0),), hidden=((H,),))


def lstm_packed(folder: Path) -> Stranger:
    """h and c in one tensor [2, batch, hidden]."""
    g = Graph("lstm_packed")
    x, s = g.input("input", ["batch", "time", F]), g.input("state", [2, "batch", H])
    y, s_next = g.output("output", ["batch", "time", H]), g.output("stateN", [2, "batch", H])
    halves = ["h", "c"]
    g.node("Split", s, out=halves, axis=0)
    g.lstm(g.node("Transpose", x, perm=[1, 0, 2]), F, H, *halves, out=["all", "h_n", "c_n"])
    g.node("Transpose", g.node("Squeeze", "all", g.constant([1])), perm=[1, 0, 2], out=y)
    g.node("Concat", "h_n", "c_n", axis=0, out=s_next)
    return Stranger(
        g.name,
        g.save(
            folder,
        ),
        (Tensor(x),),
        (Tensor(y),),
        (State(s, s_next),),
    )


def lstm_last_axis(folder: Path) -> Stranger:
    """h and c beside each other on the last axis, two layers: [batch, layers, hidden, 2]."""
    g = Graph("lstm_last_axis")
    x, s = g.input("x", ["batch", "time", F]), g.input("in_states", ["batch", 2, H, 2])
    y, s_next = g.output("y", ["batch", "time", H]), g.output("out_states", ["batch", 2, H, 2])
    layer, features = g.node("Transpose", x, perm=[1, 0, 2]), F
    joined = []
    for index in range(2):
        own = g.node("Gather", s, g.constant(index), axis=1)  # [batch, H, 2]
        starts = [
            g.node("Unsqueeze", g.node("Gather", own, g.constant(part), axis=2), g.constant([0])) for part in range(2)
        ]
        g.lstm(layer, features, H, *starts, out=[f"all{index}", f"h_n{index}", f"c_n{index}"])
        layer, features = g.node("Squeeze", f"all{index}", g.constant([1])), H
        parts = [g.node("Transpose", f"{part}_n{index}", perm=[1, 0, 2]) for part in "hc"]  # [batch, 1, H]
        joined.append(g.node("Concat", *(g.node("Unsqueeze", part, g.constant([3])) for part in parts), axis=3))
    g.node("Concat", *joined, axis=1, out=s_next)
    g.node("Transpose", layer, perm=[1, 0, 2], out=y)
    return Stranger(g.name, g.save(folder), (Tensor(x),), (Tensor(y),), (State(s, s_next, 0),))


def lstm_cell_unrolled(folder: Path) -> Stranger:
    """torch's LSTMCell for one step: Gemm, Split, Sigmoid, Tanh; no recurrent node, no time."""
    g = Graph("lstm_cell_unrolled", TORCH)
    x, h, c = g.input("x", ["batch", F]), g.input("hx", ["batch", H]), g.input("cx", ["batch", H])
    y = g.output("y", ["batch", 2])
    h_next, c_next = g.output("h1", ["batch", H]), g.output("c1", ["batch", H])
    sums = [g.node("Gemm", value, g.weight(4 * H, size), g.weight(4 * H), transB=1) for value, size in ((x, F), (h, H))]
    g.node("Split", g.node("Add", *sums), out=["i_", "f_", "g_", "o_"], axis=1)
    i, f, o = (g.node("Sigmoid", f"{gate}_") for gate in "ifo")
    g.node("Add", g.node("Mul", f, c), g.node("Mul", i, g.node("Tanh", "g_")), out=c_next)
    g.node("Mul", o, g.node("Tanh", c_next), out=h_next)
    g.node("Gemm", h_next, g.weight(2, H), g.weight(2), transB=1, out=y)
    states = State(h, h_next, 0), State(c, c_next, 0)
    return Stranger(g.name, g.save(folder), (Tensor(x, 0, None),), (Tensor(y, 0, None),), states, whole=False)


def gru_cell_unrolled(folder: Path) -> Stranger:
    """torch's GRUCell for one step."""
    g = Graph("gru_cell_unrolled", TORCH, opset=13)
    x, h = g.input("x", ["batch", F]), g.input("hx", ["batch", H])
    h_next = g.output("hy", ["batch", H])
    y = g.output("y", ["batch", H])
    for value, size, name in ((x, F, "x"), (h, H, "h")):
        total = g.node("Gemm", value, g.weight(3 * H, size), g.weight(3 * H), transB=1)
        g.node("Split", total, out=[f"r{name}", f"z{name}", f"n{name}"], axis=1)
    r, z = (g.node("Sigmoid", g.node("Add", f"{gate}x", f"{gate}h")) for gate in "rz")
    n = g.node("Tanh", g.node("Add", "nx", g.node("Mul", r, "nh")))
    g.node("Add", g.node("Mul", g.node("Sub", h, n), z), n, out=h_next)
    g.node("Relu", h_next, out=y)
    return Stranger(
        g.name, g.save(folder), (Tensor(x, 0, None),), (Tensor(y, 0, None),), (State(h, h_next, 0),), whole=False
    )


def gru_float16(folder: Path) -> Stranger:
    """Inputs, states and outputs in float16, the work too."""
    g = Graph("gru_float16")
    half = TensorProto.FLOAT16
    x, h = g.input("x", ["time", "batch", F], half), g.input("h0", [1, "batch", H], half)
    y, h_next = g.output("y", ["time", "batch", H], half), g.output("hn", [1, "batch", H], half)
    wide = [g.node("Cast", value, to=TensorProto.FLOAT) for value in (x, h)]
    g.gru(wide[0], F, H, wide[1], out=["all", "last"], linear_before_reset=1)
    g.node("Cast", g.node("Squeeze", "all", g.constant([1])), out=y, to=half)
    g.node("Cast", "last", out=h_next, to=half)
    return Stranger(g.name, g.save(folder), (Tensor(x, 1, 0),), (Tensor(y, 1, 0),), (State(h, h_next),))

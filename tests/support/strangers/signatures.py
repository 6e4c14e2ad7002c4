"""Signatures that say less, more or other than the graph can do."""

from dataclasses import replace
from pathlib import Path

import onnx
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic

from tests.support.strangers.graph import Graph, Shape
from tests.support.strangers.stranger import State, Stranger, Tensor

F, H = 3, 5


def _gru(g: Graph, x: str, y: str, features: int = F, h: str = "", h_next: str = "") -> None:
    """Batch first, with a state [1, batch, H] or without one."""
    by_time = g.node("Transpose", x, perm=[1, 0, 2])
    g.gru(by_time, features, H, *([h] if h else []), out=["all", h_next], linear_before_reset=1)
    g.node("Transpose", g.node("Squeeze", "all", g.constant([1])), perm=[1, 0, 2], out=y)


def _with_state(folder: Path, name: str, x_shape: Shape, h_shape: Shape, y_shape: Shape) -> Stranger:
    g = Graph(name)
    x, h = g.input("x", x_shape), g.input("h", h_shape)
    y, h_next = g.output("y", y_shape), g.output("h_out", h_shape)
    _gru(g, x, y, h=h, h_next=h_next)
    return Stranger(g.name, g.save(folder), states=(State(h, h_next),))


def frozen_batch(folder: Path) -> Stranger:
    """The signature says one row; the graph takes any number."""
    return _with_state(folder, "frozen_batch", [1, "time", F], [1, 1, H], [1, "time", H])


def frozen_time(folder: Path) -> Stranger:
    """The signature says one step, and one row, at a time; the graph takes any number."""
    return replace(_with_state(folder, "frozen_time", [1, 1, F], [1, 1, H], [1, 1, H]), whole=False)


def frozen_start(folder: Path) -> Stranger:
    """As deepfilternet's decoders: one row in the signature, and a start cut from zeros of the input's own shape."""
    g = Graph("frozen_start", opset=12)
    x, y = g.input("emb", [1, "S", F]), g.output("m", [1, "S", H])
    batch = g.node("Unsqueeze", g.node("Gather", g.node("Shape", x), g.constant(0), axis=0), axes=[0])
    shape = g.node("Concat", g.constant([2]), batch, g.constant([H]), axis=0)
    zeros = g.node("ConstantOfShape", shape)
    start = g.node("Slice", zeros, *(g.constant([i]) for i in (0, 1, 0)))
    g.gru(g.node("Transpose", x, perm=[1, 0, 2]), F, H, start, out=["all", ""], linear_before_reset=1)
    g.node("Transpose", g.node("Squeeze", "all", axes=[1]), perm=[1, 0, 2], out=y)
    return Stranger(g.name, g.save(folder), (Tensor(x),), (Tensor(y),), hidden=((H,),))


def frozen_inside(folder: Path) -> Stranger:
    """One row, since the graph says so itself: a Reshape to [1, 1, H] by constants."""
    g = Graph("frozen_inside")
    x, h = g.input("x", [1, "time", F]), g.input("h", [1, H])
    y, h_next = g.output("y", [1, "time", H]), g.output("h_out", [1, H])
    start = g.node("Reshape", h, g.constant([1, 1, H]))
    g.gru(g.node("Transpose", x, perm=[1, 0, 2]), F, H, start, out=["all", "last"], linear_before_reset=1)
    g.node("Reshape", "all", g.constant([1, -1, H]), out=y)
    g.node("Reshape", "last", g.constant([1, H]), out=h_next)
    return Stranger(g.name, g.save(folder), states=(State(h, h_next, None),), one_row=True)


def no_batch(folder: Path) -> Stranger:
    """x [time, features], h and c [1, 1, hidden]: the first axis is time, and there is no other row."""
    g = Graph("no_batch")
    x = g.input("x", ["time", F])
    h, c = (g.input(name, [1, 1, H]) for name in "hc")
    y = g.output("y", ["time", 1])
    h_next, c_next = (g.output(f"{name}n", [1, 1, H]) for name in "hc")
    g.lstm(g.node("Unsqueeze", x, g.constant([1])), F, H, h, c, out=["all", h_next, c_next])
    flat = g.node("Squeeze", "all", g.constant([1, 2]))
    g.node("Sigmoid", g.node("Gemm", flat, g.weight(H, 1), g.weight(1)), out=y)
    states = State(h, h_next, None), State(c, c_next, None)
    return Stranger(g.name, g.save(folder), (Tensor(x, None, 0),), (Tensor(y, None, 0),), states, one_row=True)


def tokens(folder: Path) -> Stranger:
    """Token ids [batch, time] through an embedding."""
    g = Graph("tokens")
    ids, h = g.input("input_ids", ["batch", "time"], TensorProto.INT64), g.input("h", [1, "batch", H])
    y, h_next = g.output("logits", ["batch", "time", H]), g.output("h_out", [1, "batch", H])
    _gru(g, g.node("Gather", g.weight(7, F), ids), y, h=h, h_next=h_next)
    return Stranger(g.name, g.save(folder), (Tensor(ids, limit=7),), (Tensor(y),), (State(h, h_next),))


def unlike_axes(folder: Path) -> Stranger:
    """Two inputs and two outputs whose time is on unlike axes: [batch, time, 2] and [batch, 2, time]."""
    g = Graph("unlike_axes")
    a, b = g.input("a", ["batch", "time", 2]), g.input("b", ["batch", 2, "time"])
    h = g.input("h", [1, "batch", H])
    y, z = g.output("y", ["batch", "time", H]), g.output("z", ["batch", H, "time"])
    h_next = g.output("h_out", [1, "batch", H])
    joined = g.node("Concat", a, g.node("Transpose", b, perm=[0, 2, 1]), axis=2)
    _gru(g, joined, y, features=4, h=h, h_next=h_next)
    g.node("Transpose", g.node("Tanh", y), perm=[0, 2, 1], out=z)
    return Stranger(
        g.name, g.save(folder), (Tensor(a), Tensor(b, 0, 2)), (Tensor(y), Tensor(z, 0, 2)), (State(h, h_next),)
    )


def external_data(folder: Path) -> Stranger:
    """The weights lie in a file beside it."""
    g = Graph("external_data")
    x, h = g.input("x", ["batch", "time", F]), g.input("h", [1, "batch", H])
    y, h_next = g.output("y", ["batch", "time", H]), g.output("h_out", [1, "batch", H])
    _gru(g, x, y, h=h, h_next=h_next)
    path = g.save(folder, save_as_external_data=True, location="external_data.weights", size_threshold=100)
    return Stranger(g.name, path, states=(State(h, h_next),))


def quantised(folder: Path) -> Stranger:
    """onnxruntime's dynamic quantisation: DynamicQuantizeLSTM, whose ranges are those of all rows of a run."""
    g = Graph("quantised_source")
    x, y = g.input("x", ["time", "batch", F]), g.output("y", ["time", "batch", 8])
    h, c = (g.input(name, [1, "batch", 8]) for name in "hc")
    h_next, c_next = (g.output(f"{name}n", [1, "batch", 8]) for name in "hc")
    g.lstm(x, F, 8, h, c, out=["all", h_next, c_next])
    g.node("Squeeze", "all", g.constant([1]), out=y)
    path = folder / "quantised.onnx"
    quantize_dynamic(g.save(folder), path, weight_type=QuantType.QInt8)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert "DynamicQuantizeLSTM" in kinds
    states = State(h, h_next), State(c, c_next)
    return Stranger("quantised", path, (Tensor(x, 1, 0),), (Tensor(y, 1, 0),), states, whole=False, promises_rows=False)


def bidirectional(folder: Path) -> Stranger:
    """Reads the sequence from its end too."""
    g = Graph("bidirectional")
    x, y = g.input("x", ["time", "batch", F]), g.output("y", ["time", "batch", 2 * H])
    g.lstm(x, F, H, out=["all", "", ""], direction="bidirectional")
    g.node("Reshape", g.node("Transpose", "all", perm=[0, 2, 1, 3]), g.constant([0, 0, 2 * H]), out=y)
    return Stranger(g.name, g.save(folder), (Tensor(x, 1, 0),), (Tensor(y, 1, 0),), refused="bidirectional|backwards")


def padded_convolution(folder: Path) -> Stranger:
    """A causal convolution over time that pads inside the graph, before a GRU: what it has seen is nowhere kept."""
    g = Graph("padded_convolution")
    x, h = g.input("x", ["batch", "time", F]), g.input("h", [1, "batch", H])
    y, h_next = g.output("y", ["batch", "time", H]), g.output("h_out", [1, "batch", H])
    by_channel = g.node("Transpose", x, perm=[0, 2, 1])
    seen = g.node("Conv", by_channel, g.weight(F, F, 3), pads=[2, 0], kernel_shape=[3])
    _gru(g, g.node("Transpose", seen, perm=[0, 2, 1]), y, h=h, h_next=h_next)
    return Stranger(g.name, g.save(folder), states=(State(h, h_next),), refused="pads")


def frozen_steps(folder: Path) -> Stranger:
    """Eight steps a run, fixed by a constant inside, with a mean over them."""
    g = Graph("frozen_steps")
    x, h = g.input("x", ["batch", 8, F]), g.input("h", [1, "batch", H])
    y, h_next = g.output("y", ["batch", 8, H]), g.output("h_out", [1, "batch", H])
    flat = g.node("MatMul", g.node("Reshape", x, g.constant([-1, 8 * F])), g.weight(8 * F, 8 * F))
    _gru(g, g.node("Reshape", flat, g.constant([-1, 8, F])), y, h=h, h_next=h_next)
    return Stranger(g.name, g.save(folder), states=(State(h, h_next),), refused="time is frozen inside")


def no_state(folder: Path) -> Stranger:
    """Two layers of an ordinary network: nothing is carried."""
    g = Graph("no_state")
    x, y = g.input("x", ["batch", "time", F]), g.output("y", ["batch", "time", 2])
    g.node("MatMul", g.node("Relu", g.node("MatMul", x, g.weight(F, H))), g.weight(H, 2), out=y)
    return Stranger(g.name, g.save(folder), refused="nothing is carried")


def swapped_on_purpose(folder: Path) -> Stranger:
    """States of one shape that data flow does not pair: each output hears of both inputs."""
    g = Graph("swapped_on_purpose")
    x = g.input("x", ["batch", 4])
    a, b = g.input("s0", ["batch", 4]), g.input("s1", ["batch", 4])
    y = g.output("y", ["batch", 4])
    first, second = g.output("t0", ["batch", 4]), g.output("t1", ["batch", 4])
    for share, end in ((0.4, first), (-0.3, second)):
        mixed = g.node("Add", g.node("Mul", a, g.constant(share)), g.node("Mul", b, g.constant(0.5)))
        g.node("Tanh", g.node("Add", x, mixed), out=end)
    g.node("Add", first, second, out=y)
    states = State(a, first, 0), State(b, second, 0)
    return Stranger(
        g.name, g.save(folder), (Tensor(x, 0, None),), (Tensor(y, 0, None),), states, refused="--state", whole=False
    )

"""Files that take one window of samples a run: no time axis, context, sample rates, caches beside the recurrence."""

from pathlib import Path

from onnx import TensorProto

from tests.support.strangers.graph import Graph
from tests.support.strangers.stranger import State, Stranger, Tensor, rate

WINDOW, H = 16, 5


def _features(g: Graph, x: str, out: str = "") -> str:
    """Frames of a window by a strided convolution, averaged: [batch, 6]."""
    frames = g.node("Conv", g.node("Unsqueeze", x, g.constant([1])), g.weight(6, 1, 4), strides=[4], kernel_shape=[4])
    mean = g.node("ReduceMean", g.node("Relu", frames), axes=[2], keepdims=0)
    return g.node("Mul", mean, g.constant(8.0), out=out)


def _detect(g: Graph, features: str, state: str, probability: str, state_next: str) -> None:
    """A recurrent decision on the features of one window; h and c are packed [2, batch, H]."""
    g.node("Split", state, out=[f"h_{state}", f"c_{state}"], axis=0)
    one_step = g.node("Unsqueeze", features, g.constant([0]))
    ends = [f"{end}_{state_next}" for end in ("all", "h", "c")]
    g.lstm(one_step, 6, H, f"h_{state}", f"c_{state}", out=ends)
    hidden = g.node("Squeeze", ends[1], g.constant([0]))
    g.node("Sigmoid", g.node("Gemm", hidden, g.weight(H, 1), g.weight(1)), out=probability)
    g.node("Concat", ends[1], ends[2], axis=0, out=state_next)


def window(folder: Path) -> Stranger:
    """A window and a packed state in, a probability and the next state out; no axis is time."""
    g = Graph("window")
    x, s = g.input("input", ["batch", WINDOW]), g.input("state", [2, "batch", H])
    y, s_next = g.output("output", ["batch", 1]), g.output("stateN", [2, "batch", H])
    _detect(g, _features(g, x), s, y, s_next)
    return Stranger(
        g.name, g.save(folder), (Tensor(x, 0, None),), (Tensor(y, 0, None),), (State(s, s_next),), whole=False
    )


def context(folder: Path) -> Stranger:
    """As `window`, but the caller has to put the last four samples before each window, which the file cannot say."""
    g = Graph("context")
    x, s = g.input("input", ["batch", WINDOW + 4]), g.input("state", [2, "batch", H])
    y, s_next = g.output("output", ["batch", 1]), g.output("stateN", [2, "batch", H])
    _detect(g, _features(g, x), s, y, s_next)
    return Stranger(
        g.name,
        g.save(folder),
        (Tensor(x, 0, None),),
        (Tensor(y, 0, None),),
        (State(s, s_next),),
        context={x: 4},
        whole=False,
    )


def context_sequence(folder: Path) -> Stranger:
    """As silero's sequence model: all windows of one session a run, [time, samples], each behind its own context."""
    g = Graph("context_sequence")
    x, (h, c) = g.input("input", ["time", WINDOW + 4]), (g.input(name, [1, 1, H]) for name in "hc")
    y, (hn, cn) = g.output("probs", ["time"]), (g.output(name, [1, 1, H]) for name in ("hn", "cn"))
    g.lstm(g.node("Unsqueeze", _features(g, x), g.constant([1])), 6, H, h, c, out=["all", hn, cn])
    flat = g.node("Squeeze", "all", g.constant([1, 2]))
    decided = g.node("Sigmoid", g.node("Gemm", flat, g.weight(H, 1), g.weight(1)))
    g.node("Squeeze", decided, g.constant([1]), out=y)
    states = State(h, hn, None), State(c, cn, None)
    inputs, outputs = (Tensor(x, None, 0),), (Tensor(y, None, 0),)
    return Stranger(g.name, g.save(folder), inputs, outputs, states, context={x: 4}, one_row=True)


def context_sequences(folder: Path) -> Stranger:
    """The same of many sessions, [batch, time, samples]."""
    g = Graph("context_sequences")
    x, h = g.input("input", ["batch", "time", WINDOW + 4]), g.input("h", [1, "batch", H])
    y, hn = g.output("probs", ["batch", "time"]), g.output("hn", [1, "batch", H])
    by_time = g.node("Transpose", x, perm=[1, 0, 2])
    seen = g.node("Tanh", g.node("MatMul", by_time, g.weight(WINDOW + 4, 6)))
    g.gru(seen, 6, H, h, out=["all", hn], linear_before_reset=1)
    decided = g.node("MatMul", g.node("Squeeze", "all", g.constant([1])), g.weight(H, 1))
    g.node("Transpose", g.node("Squeeze", decided, g.constant([2])), perm=[1, 0], out=y)
    return Stranger(g.name, g.save(folder), (Tensor(x),), (Tensor(y),), (State(h, hn),), context={x: 4})


def sample_rate(folder: Path) -> Stranger:
    """An `If` on the rate with an LSTM in each branch, of other weights."""
    g = Graph("sample_rate")
    x, s = g.input("input", ["batch", WINDOW]), g.input("state", [2, "batch", H])
    sr = g.input("sr", [], TensorProto.INT64)
    y, s_next = g.output("output", ["batch", 1]), g.output("stateN", [2, "batch", H])
    branches = []
    for name in ("wide", "narrow"):
        branch = Graph(f"{g.name}_{name}", prefix=f"{name}_")
        branch.output(f"y_{name}", ["batch", 1])
        branch.output(f"s_{name}", [2, "batch", H])
        _detect(branch, _features(branch, x), s, f"y_{name}", f"s_{name}")
        branches.append(branch.proto())
    g.node(
        "If",
        g.node("Equal", sr, g.constant(16000)),
        out=[y, s_next],
        then_branch=branches[0],
        else_branch=branches[1],
    )
    return Stranger(
        g.name,
        g.save(folder),
        (Tensor(x, 0, None),),
        (Tensor(y, 0, None),),
        (State(s, s_next),),
        fixed={sr: rate(16000)},
        whole=False,
    )


def ignored_input(folder: Path) -> Stranger:
    """A rate that is asked for and changes nothing."""
    g = Graph("ignored_input")
    x, s = g.input("input", ["batch", WINDOW]), g.input("state", [2, "batch", H])
    sr = g.input("sr", [], TensorProto.INT64)
    y, s_next = g.output("output", ["batch", 1]), g.output("stateN", [2, "batch", H])
    _detect(g, _features(g, x), s, y, s_next)
    return Stranger(
        g.name,
        g.save(folder),
        (Tensor(x, 0, None),),
        (Tensor(y, 0, None),),
        (State(s, s_next),),
        ignored=(sr,),
        whole=False,
    )


def int16_window(folder: Path) -> Stranger:
    """Samples as a sound card gives them, and one row only: the signature says 1."""
    g = Graph("int16_window")
    x, s = g.input("pcm", [1, WINDOW], TensorProto.INT16), g.input("state", [2, 1, H])
    y, s_next = g.output("speech", [1, 1]), g.output("state_out", [2, 1, H])
    scaled = g.node("Div", g.node("Cast", x, to=TensorProto.FLOAT), g.constant(32768.0))
    _detect(g, _features(g, scaled), s, y, s_next)
    return Stranger(
        g.name, g.save(folder), (Tensor(x, 0, None),), (Tensor(y, 0, None),), (State(s, s_next),), whole=False
    )


def caches(folder: Path) -> Stranger:
    """Two convolution caches of one shape [batch, channels, taps] beside a GRU's state [1, batch, H]."""
    channels, taps = 4, 2
    g = Graph("caches")
    x = g.input("feat", ["batch", 1, channels])
    starts = [g.input(f"cache{i}", ["batch", channels, taps]) for i in range(2)]
    h = g.input("h", [1, "batch", H])
    y = g.output("prob", ["batch", 1, 1])
    ends = [g.output(f"new_cache{i}", ["batch", channels, taps]) for i in range(2)]
    h_next = g.output("h_out", [1, "batch", H])
    layer = g.node("Transpose", x, perm=[0, 2, 1])  # [batch, channels, 1]
    for start, end in zip(starts, ends, strict=True):
        seen = g.node("Concat", start, layer, axis=2)
        layer = g.node("Tanh", g.node("Conv", seen, g.weight(channels, channels, taps + 1), g.weight(channels)))
        g.node("Slice", seen, *(g.constant([i]) for i in (1, 1 + taps, 2)), out=end)
    g.gru(g.node("Transpose", layer, perm=[2, 0, 1]), channels, H, h, out=["all", h_next], linear_before_reset=1)
    ys = g.node("Transpose", g.node("Squeeze", "all", g.constant([1])), perm=[1, 0, 2])
    g.node("Sigmoid", g.node("MatMul", ys, g.weight(H, 1)), out=y)
    states = *(State(a, b, 0) for a, b in zip(starts, ends, strict=True)), State(h, h_next)
    return Stranger(g.name, g.save(folder), (Tensor(x),), (Tensor(y),), states, whole=False)


def embedding(folder: Path) -> Stranger:
    """A speaker's embedding [batch, 3], one value for each session, beside the samples."""
    g = Graph("embedding")
    x, e = g.input("x", ["batch", "time", 4]), g.input("speaker", ["batch", 3])
    h, c = (g.input(name, [1, "batch", H]) for name in ("h0", "c0"))
    y = g.output("y", ["batch", "time", H])
    h_next, c_next = (g.output(name, [1, "batch", H]) for name in ("hn", "cn"))
    shift = g.node("Unsqueeze", g.node("Gemm", e, g.weight(3, 4), g.weight(4)), g.constant([1]))
    mixed = g.node("Mul", x, g.node("Tanh", shift))
    g.lstm(g.node("Transpose", mixed, perm=[1, 0, 2]), 4, H, h, c, out=["all", h_next, c_next])
    g.node("Transpose", g.node("Squeeze", "all", g.constant([1])), perm=[1, 0, 2], out=y)
    return Stranger(
        g.name, g.save(folder), (Tensor(x),), (Tensor(y),), (State(h, h_next), State(c, c_next)), per_session=(e,)
    )


def smoothing(folder: Path) -> Stranger:
    """No recurrent cell: a mean that forgets, and a bool beside the number that says what counts."""
    g = Graph("smoothing")
    x, counts = g.input("x", ["batch", 3]), g.input("counts", ["batch", 1], TensorProto.BOOL)
    s, y = g.input("mean", ["batch", 3]), g.output("y", ["batch", 3])
    s_next = g.output("new_mean", ["batch", 3])
    moved = g.node("Add", g.node("Mul", s, g.constant(0.9)), g.node("Mul", x, g.constant(0.1)))
    g.node("Where", counts, moved, s, out=s_next)
    g.node("Sub", x, s_next, out=y)
    inputs = Tensor(x, 0, None), Tensor(counts, 0, None)
    states = (State(s, s_next, 0),)
    # x and y are of the state's shape, too, and might be another state.
    told = {"states": {s: s_next}}
    return Stranger(g.name, g.save(folder), inputs, (Tensor(y, 0, None),), states, whole=False, options=told)

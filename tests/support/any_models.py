"""Small artifacts of contract 2 made by hand, each with one trait that gatestream's own network has not.

None of them has an input for lengths but where it is said: all rows of a run have to be of one length.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from gatestream.protos import spec as spec_module
from gatestream.protos.dtypes import DTYPES
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.weights import fingerprint, intact_fingerprint
from tests.support.artifacts import OPSET

Array = npt.NDArray[Any]

CONTEXT: Final = 64
WINDOW: Final = 512
_HIDDEN: Final = 8
_DOUBLE: Final = TensorProto.DOUBLE
_NUMBERS: Final = {
    "zero": np.array(0, np.int64),
    "one": np.array(1, np.int64),
    "minus_one": np.array(-1, np.int64),
    "axis_1": np.array([1], np.int64),
}


def save(
    path: Path, nodes: Sequence[onnx.NodeProto], spec: pb.ModelSpec, constants: Mapping[str, Array] | None = None
) -> Path:
    """Write an artifact whose inputs and outputs are those of its spec; `nodes` use what `constants` and 0, 1 hold."""
    bodies = [attribute.g.node for node in nodes for attribute in node.attribute]
    used = {name for each in (nodes, *bodies) for node in each for name in node.input}
    every = {**_NUMBERS, **(constants or {})}
    initializers = {name: array for name, array in every.items() if name in used}
    inputs = [_tensor(item.name, item.dtype, ["batch", "time", *item.shape]) for item in spec.inputs]
    inputs += [_tensor(item.input, item.dtype, ["batch", *item.shape]) for item in spec.states]
    outputs = [_tensor(item.name, item.dtype, ["batch", "time", *item.shape]) for item in spec.outputs]
    outputs += [_tensor(item.output, item.dtype, ["batch", *item.shape]) for item in spec.states]
    stored = [numpy_helper.from_array(array, name) for name, array in initializers.items()]
    graph = helper.make_graph(nodes, spec.name, inputs, outputs, stored)
    spec.contract, spec.version, spec.opset = spec_module.CONTRACT_ANY, "1", OPSET
    if not spec.HasField("promises"):
        spec.promises.rows_independent = spec.promises.replay_bit_equal = True
    floats = {name: array for name, array in initializers.items() if array.dtype.kind == "f"}
    spec.weights_fingerprint = fingerprint(floats)
    spec.stored_fingerprint = intact_fingerprint(initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    helper.set_model_props(model, {spec_module.KEY: spec_module.to_json(spec)})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def _tensor(name: str, dtype: pb.DataType, shape: Sequence[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(DTYPES[dtype]), shape)


# ---- Sums, of any type ------------------------------------------------------------------------


def sums(
    path: Path,
    dtype: pb.DataType = pb.DATA_TYPE_FLOAT32,
    *,
    name: str = "sums",
    limit: int = 0,
    initial: float = 0.0,
    initial_values: bytes = b"",
    promises: pb.Promises | None = None,
) -> Path:
    """y is the sum of all inputs of the session so far, of two numbers; input, state and output are of one type.

    Of bools it is whether any was true. The state is what the last row of a run has come to: a row that is not the
    session's own shows.
    """
    element = helper.np_dtype_to_tensor_dtype(DTYPES[dtype])
    nodes = [
        helper.make_node("Cast", ["x"], ["x64"], to=_DOUBLE),
        helper.make_node("CumSum", ["x64", "one"], ["sums"]),
        helper.make_node("Cast", ["s"], ["s64"], to=_DOUBLE),
        helper.make_node("Unsqueeze", ["s64", "axis_1"], ["s_row"]),
        helper.make_node("Add", ["sums", "s_row"], ["total"]),
        helper.make_node("Cast", ["total"], ["y"], to=element),
        helper.make_node("Gather", ["y", "minus_one"], ["s_next"], axis=1),
    ]
    spec = pb.ModelSpec(
        name=name,
        inputs=[pb.TensorSpec(name="x", dtype=dtype, shape=[2], limit=limit)],
        outputs=[pb.TensorSpec(name="y", dtype=dtype, shape=[2])],
        states=[
            pb.StateSpec(
                input="s", output="s_next", dtype=dtype, shape=[2], initial=initial, initial_values=initial_values
            )
        ],
        promises=promises,
    )
    return save(path, nodes, spec)


def summed(x: Array, start: Array | None = None) -> Array:
    """What `sums` gives for x [steps, 2] from a state [2]."""
    total = np.cumsum(x.astype(np.float64), axis=0) + (0 if start is None else start.astype(np.float64))
    return (total != 0) if x.dtype.kind == "b" else total.astype(x.dtype)


# ---- Two inputs, two outputs ------------------------------------------------------------------


def two_of_each(path: Path, name: str = "two") -> Path:
    """Sums of `values` [3] float32 where `take` [] bool is true, and, int64 [], how often it was."""
    nodes = [
        helper.make_node("Cast", ["take"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask_column"]),
        helper.make_node("Mul", ["values", "mask_column"], ["taken"]),
        helper.make_node("CumSum", ["taken", "one"], ["sums"]),
        helper.make_node("Unsqueeze", ["total_before", "axis_1"], ["total_row"]),
        helper.make_node("Add", ["sums", "total_row"], ["total"]),
        helper.make_node("Gather", ["total", "minus_one"], ["total_after"], axis=1),
        helper.make_node("Cast", ["take"], ["each"], to=TensorProto.INT64),
        helper.make_node("CumSum", ["each", "one"], ["counts"]),
        helper.make_node("Unsqueeze", ["count_before", "axis_1"], ["count_row"]),
        helper.make_node("Add", ["counts", "count_row"], ["count"]),
        helper.make_node("Gather", ["count", "minus_one"], ["count_after"], axis=1),
    ]
    spec = pb.ModelSpec(
        name=name,
        inputs=[
            pb.TensorSpec(name="values", dtype=pb.DATA_TYPE_FLOAT32, shape=[3]),
            pb.TensorSpec(name="take", dtype=pb.DATA_TYPE_BOOL),
        ],
        outputs=[
            pb.TensorSpec(name="total", dtype=pb.DATA_TYPE_FLOAT32, shape=[3]),
            pb.TensorSpec(name="count", dtype=pb.DATA_TYPE_INT64),
        ],
        states=[
            pb.StateSpec(input="total_before", output="total_after", dtype=pb.DATA_TYPE_FLOAT32, shape=[3]),
            pb.StateSpec(input="count_before", output="count_after", dtype=pb.DATA_TYPE_INT64),
        ],
    )
    return save(path, nodes, spec, {"last": np.array([-1], np.int64)})


# ---- Constants --------------------------------------------------------------------------------

RATES: Final = np.array([1, 10, 100], np.float32)
"""What the constant `rate` of `with_constants` is where nobody gives one."""


def with_constants(path: Path, name: str = "speaker") -> Path:
    """Sums of x [3], each step times `rate` [3], and behind them plus `speaker` [2, 3] summed over its rows.

    `speaker` must be given; `rate` is `RATES` where it is not.
    """
    nodes = [
        helper.make_node("Unsqueeze", ["rate", "axis_1"], ["rate_row"]),
        helper.make_node("Mul", ["x", "rate_row"], ["scaled"]),
        helper.make_node("CumSum", ["scaled", "one"], ["sums"]),
        helper.make_node("Unsqueeze", ["s", "axis_1"], ["s_row"]),
        helper.make_node("Add", ["sums", "s_row"], ["total"]),
        helper.make_node("Gather", ["total", "minus_one"], ["s_next"], axis=1),
        helper.make_node("ReduceSum", ["speaker", "axis_1"], ["voice"], keepdims=1),
        helper.make_node("Add", ["total", "voice"], ["y"]),
        helper.make_node("Identity", ["speaker"], ["speaker_next"]),
        helper.make_node("Identity", ["rate"], ["rate_next"]),
    ]
    f32, constant = pb.DATA_TYPE_FLOAT32, pb.STATE_ROLE_CONSTANT
    spec = pb.ModelSpec(
        name=name,
        inputs=[pb.TensorSpec(name="x", dtype=f32, shape=[3])],
        outputs=[pb.TensorSpec(name="y", dtype=f32, shape=[3])],
        states=[
            pb.StateSpec(input="speaker", output="speaker_next", dtype=f32, shape=[2, 3], role=constant, required=True),
            pb.StateSpec(input="s", output="s_next", dtype=f32, shape=[3]),
            pb.StateSpec(
                input="rate", output="rate_next", dtype=f32, shape=[3], role=constant, initial_values=RATES.tobytes()
            ),
        ],
    )
    return save(path, nodes, spec)


def spoken(x: Array, speaker: Array, rate: Array = RATES) -> Array:
    """What `with_constants` gives for x [steps, 3]."""
    total: Array = np.cumsum(x * rate, axis=0) + speaker.sum(axis=0)
    return total


# ---- Windows ----------------------------------------------------------------------------------


class Windowed:
    """A recurrent cell over windows of int16 samples, each with the 64 samples before it.

    Attributes:
        w: [CONTEXT + WINDOW, hidden].
        r: [hidden, hidden].
        v: [hidden, 1].
    """

    def __init__(self, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.w = (rng.standard_normal((CONTEXT + WINDOW, _HIDDEN)) / 8).astype(np.float32)
        self.r = (rng.standard_normal((_HIDDEN, _HIDDEN)) / 3).astype(np.float32)
        self.v = rng.standard_normal((_HIDDEN, 1)).astype(np.float32)

    def save(self, path: Path, name: str = "windowed") -> Path:
        """Write it, its time a Scan."""
        body = helper.make_graph(
            [
                helper.make_node("Concat", ["context_in", "window"], ["whole"], axis=-1),
                helper.make_node("Cast", ["whole"], ["whole_float"], to=TensorProto.FLOAT),
                helper.make_node("Div", ["whole_float", "full_scale"], ["samples"]),
                helper.make_node("MatMul", ["samples", "w"], ["wx"]),
                helper.make_node("MatMul", ["h_in", "r"], ["rh"]),
                helper.make_node("Add", ["wx", "rh"], ["a"]),
                helper.make_node("Tanh", ["a"], ["h_out"]),
                helper.make_node("MatMul", ["h_out", "v"], ["score"]),
                helper.make_node("Slice", ["window", "context_begin", "context_end", "context_axis"], ["context_out"]),
            ],
            "step",
            [
                helper.make_tensor_value_info("context_in", TensorProto.INT16, ["batch", CONTEXT]),
                helper.make_tensor_value_info("h_in", TensorProto.FLOAT, ["batch", _HIDDEN]),
                helper.make_tensor_value_info("window", TensorProto.INT16, ["batch", WINDOW]),
            ],
            [
                helper.make_tensor_value_info("context_out", TensorProto.INT16, ["batch", CONTEXT]),
                helper.make_tensor_value_info("h_out", TensorProto.FLOAT, ["batch", _HIDDEN]),
                helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1]),
            ],
        )
        scan = helper.make_node(
            "Scan",
            ["context", "h", "audio"],
            ["context_next", "h_next", "speech"],
            body=body,
            num_scan_inputs=1,
            scan_input_axes=[1],
            scan_output_axes=[1],
        )
        outside: dict[str, Array] = {
            "w": self.w,
            "r": self.r,
            "v": self.v,
            "full_scale": np.array(32768, np.float32),
            "context_begin": np.array([-CONTEXT], np.int64),
            "context_end": np.array([np.iinfo(np.int64).max], np.int64),
            "context_axis": np.array([-1], np.int64),
        }
        spec = pb.ModelSpec(
            name=name,
            inputs=[
                pb.TensorSpec(name="audio", dtype=pb.DATA_TYPE_INT16, shape=[WINDOW], window=WINDOW, context=CONTEXT)
            ],
            outputs=[pb.TensorSpec(name="speech", dtype=pb.DATA_TYPE_FLOAT32, shape=[1], columns=["speech"])],
            states=[
                pb.StateSpec(
                    input="context",
                    output="context_next",
                    dtype=pb.DATA_TYPE_INT16,
                    shape=[CONTEXT],
                    role=pb.STATE_ROLE_CONTEXT,
                ),
                pb.StateSpec(
                    input="h",
                    output="h_next",
                    dtype=pb.DATA_TYPE_FLOAT32,
                    shape=[_HIDDEN],
                    role=pb.STATE_ROLE_HIDDEN,
                ),
            ],
            cells=[pb.CellSpec(name="rnn", kind=pb.CELL_KIND_RNN, hidden=_HIDDEN, states=["h"])],
        )
        return save(path, [scan], spec, outside)

    def scores(self, windows: Array) -> Array:
        """What it gives for windows [steps, WINDOW] of a new session, from the equations, in float64: [steps, 1]."""
        h, context, given = np.zeros(_HIDDEN), np.zeros(CONTEXT), []
        for window in windows.astype(np.float64):
            h = np.tanh(np.concatenate([context, window]) / 32768 @ self.w + h @ self.r)
            given.append(h @ self.v)
            context = window[-CONTEXT:]
        return np.array(given)


def alone(path: Path, chunks: Iterable[Mapping[str, Array]], constants: Mapping[str, Array] | None = None) -> list[Any]:
    """One session by itself in onnxruntime, chunk by chunk: of each chunk the outputs, each [time, *shape]."""
    import onnxruntime

    spec = spec_module.from_metadata({item.key: item.value for item in onnx.load(path).metadata_props}, str(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = [item.name for item in spec.outputs] + [item.output for item in spec.states]
    states = {item.input: _start(item)[None] for item in spec.states}
    states |= {name: value[None] for name, value in (constants or {}).items()}
    given = []
    for chunk in chunks:
        got = session.run(wanted, {**{name: rows[None] for name, rows in chunk.items()}, **states})
        given.append([column[0] for column in got[: len(spec.outputs)]])
        states = {item.input: row for item, row in zip(spec.states, got[len(spec.outputs) :], strict=True)}
    return given


def _start(item: pb.StateSpec) -> Array:
    dtype = DTYPES[item.dtype]
    if item.initial_values:
        return np.frombuffer(item.initial_values, dtype).reshape(tuple(item.shape))
    return np.full(tuple(item.shape), item.initial, dtype)

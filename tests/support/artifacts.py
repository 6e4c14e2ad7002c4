"""Small artifacts made by hand, for tests of the server that need no training and no exporter."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from gatestream.protos import spec as spec_module
from gatestream.protos import weights
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

OPSET = 20
POISON = 1e6
"""An input of the accumulator, at or above which its run fails."""
ACCUMULATOR_FINGERPRINT = weights.fingerprint(
    {"poison": np.array([POISON], np.float32), "table": np.zeros(1, np.float32)}
)


def accumulator(
    path: Path,
    features: int = 2,
    name: str = "accumulator",
    columns: Sequence[str] = (),
    version: str = "1",
    initial: float = 0.0,
) -> Path:
    """A model whose every answer tells its whole past: y is the sum of `initial` and all inputs of the session so far.

    Small whole numbers stay exact in float32, so a step that was lost, repeated, or of another session shows as a
    wrong number. An input of POISON or more makes the run itself fail, with onnxruntime's own error.
    """
    constants: dict[str, npt.NDArray[Any]] = {
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "one_d": np.array([1], np.int64),
        "minus_one": np.array([-1], np.int64),
        "poison": np.array(POISON, np.float32),
        "table": np.zeros(1, np.float32),
    }
    nodes = [
        # Steps past a row's length count for nothing.
        helper.make_node("Shape", ["x"], ["time"], start=1, end=2),
        helper.make_node("Squeeze", ["time"], ["time_scalar"]),
        helper.make_node("Range", ["zero", "time_scalar", "one"], ["steps"]),
        helper.make_node("Cast", ["length"], ["length64"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["length64", "one_d"], ["length_column"]),
        helper.make_node("Less", ["steps", "length_column"], ["real"]),
        helper.make_node("Cast", ["real"], ["real_float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real_float", "minus_one"], ["mask"]),
        helper.make_node("Mul", ["x", "mask"], ["x_real"]),
        # A poisonous input indexes past the table's end.
        helper.make_node("ReduceMax", ["x_real"], ["largest"], keepdims=0),
        helper.make_node("GreaterOrEqual", ["largest", "poison"], ["poisoned"]),
        helper.make_node("Cast", ["poisoned"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["nothing"]),
        helper.make_node("Add", ["x_real", "nothing"], ["x_safe"]),
        helper.make_node("CumSum", ["x_safe", "one"], ["sums"]),
        helper.make_node("Unsqueeze", ["s", "one_d"], ["s_row"]),
        helper.make_node("Add", ["sums", "s_row"], ["y"]),
        helper.make_node("ReduceSum", ["x_safe", "one_d"], ["total"], keepdims=0),
        helper.make_node("Add", ["s", "total"], ["s_next"]),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "time", features]),
            helper.make_tensor_value_info("length", TensorProto.INT32, ["batch"]),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, ["batch", features]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "time", features]),
            helper.make_tensor_value_info("s_next", TensorProto.FLOAT, ["batch", features]),
        ],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    spec = pb.ModelSpec(
        contract=spec_module.CONTRACT,
        name=name,
        version=version,
        layers=1,
        hidden=features,
        inputs=[pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT32, shape=[features], columns=columns)],
        length_input="length",
        outputs=[pb.TensorSpec(name="y", dtype=pb.DATA_TYPE_FLOAT32, shape=[features])],
        states=[
            pb.StateSpec(input="s", output="s_next", dtype=pb.DATA_TYPE_FLOAT32, shape=[features], initial=initial)
        ],
        opset=OPSET,
    )
    return save(path, graph, spec)


def save(path: Path, graph: onnx.GraphProto, spec: pb.ModelSpec) -> Path:
    """Write an artifact, with the fingerprint of its weights."""
    initializers = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    spec.weights_fingerprint = weights.stored_fingerprint(initializers, spec)
    if spec.contract == spec_module.CONTRACT_ANY:
        spec.stored_fingerprint = weights.intact_fingerprint(initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    helper.set_model_props(model, {spec_module.KEY: spec_module.to_json(spec)})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def whole_numbers(rng: np.random.Generator, steps: int, features: int = 2) -> npt.NDArray[np.float32]:
    """Inputs for the accumulator, [steps, features]."""
    return rng.integers(-50, 50, (steps, features)).astype(np.float32)

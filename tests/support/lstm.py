"""A small LSTM artifact with gates, made by hand, and the same cell in NumPy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from gatestream.protos import spec as spec_module
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import BY_SYMBOL, ONNX_ORDER, ONNX_ORDER_NAME
from tests.support.artifacts import OPSET, save

GATES = {"i": "input", "f": "forget", "g": "candidate", "o": "output"}

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Lstm:
    """The weights of one layer, by the gates' symbols.

    Attributes:
        W: each [features, hidden].
        R: each [hidden, hidden].
        b: each [hidden].
    """

    W: dict[str, Floats]
    R: dict[str, Floats]
    b: dict[str, Floats]

    @classmethod
    def random(cls, features: int = 3, hidden: int = 4, seed: int = 0) -> Self:
        rng = np.random.default_rng(seed)
        shapes = (features, hidden), (hidden, hidden), (hidden,)
        scale = 1.4 / hidden**0.5
        W, R, b = ({k: rng.normal(0, scale, shape).astype(np.float32) for k in GATES} for shape in shapes)
        return cls(W, R, b)

    @property
    def features(self) -> int:
        return len(self.W["i"])

    @property
    def hidden(self) -> int:
        return len(self.b["i"])

    def run(self, xs: Floats) -> tuple[Floats, dict[str, Floats]]:
        """Steps of one session from the initial state.

        Args:
            xs: [steps, features].

        Returns:
            y [steps, hidden], which is h; and the gates, each [steps, hidden].
        """
        ys, gates, _ = self.advance(xs, (np.zeros(self.hidden, np.float32), np.zeros(self.hidden, np.float32)))
        return ys, gates

    def advance(
        self, xs: Floats, state: tuple[Floats, Floats]
    ) -> tuple[Floats, dict[str, Floats], tuple[Floats, Floats]]:
        """As `run`, from (h, c), each [hidden], and with (h, c) after the last step."""
        h, c = state
        ys = np.empty((len(xs), self.hidden), np.float32)
        gates = {k: np.empty_like(ys) for k in GATES}
        for t, x in enumerate(xs):
            a = {k: x @ self.W[k] + h @ self.R[k] + self.b[k] for k in GATES}
            i, f, o = (1 / (1 + np.exp(-a[k])) for k in "ifo")
            g = np.tanh(a["g"])
            c = f * c + i * g
            h = o * np.tanh(c)
            ys[t] = h
            for k, activation in zip("ifgo", (i, f, g, o), strict=True):
                gates[k][t] = activation
        return ys, gates, (h, c)

    def save(self, path: Path, name: str = "lstm") -> Path:
        """Write the artifact: one layer, the head is h itself, time is a Scan, rows may be ragged."""
        node, value = helper.make_node, helper.make_tensor_value_info
        batch_hidden: list[str | int] = ["batch", self.hidden]
        cell = [node("Less", ["t", "length"], ["real"]), node("Unsqueeze", ["real", "axis1"], ["real_column"])]
        for k in GATES:
            cell += [
                node("MatMul", ["x_t", f"{_prefix(k)}.W.T"], [f"xW_{k}"]),
                node("MatMul", ["h_in", f"{_prefix(k)}.R.T"], [f"hR_{k}"]),
                node("Sum", [f"xW_{k}", f"hR_{k}", f"{_prefix(k)}.b"], [f"a_{k}"]),
                node("Tanh" if k == "g" else "Sigmoid", [f"a_{k}"], [f"{k}_t"]),
            ]
        cell += [
            node("Mul", ["f_t", "c_in"], ["kept"]),
            node("Mul", ["i_t", "g_t"], ["added"]),
            node("Add", ["kept", "added"], ["c_new"]),
            node("Tanh", ["c_new"], ["c_squashed"]),
            node("Mul", ["o_t", "c_squashed"], ["h_new"]),
            # Steps past a row's length leave its state alone.
            node("Where", ["real_column", "h_new", "h_in"], ["h_out"]),
            node("Where", ["real_column", "c_new", "c_in"], ["c_out"]),
            node("Add", ["t", "one"], ["t_out"]),
            node("Identity", ["h_new"], ["y_t"]),
        ]
        states = [value(f"{k}_in", TensorProto.FLOAT, batch_hidden) for k in "hc"]
        body = helper.make_graph(
            cell,
            "cell",
            [*states, value("t", TensorProto.INT32, []), value("x_t", TensorProto.FLOAT, ["batch", self.features])],
            [
                *(value(f"{k}_out", TensorProto.FLOAT, batch_hidden) for k in "hc"),
                value("t_out", TensorProto.INT32, []),
                *(value(f"{k}_t", TensorProto.FLOAT, batch_hidden) for k in ("y", *GATES)),
            ],
        )
        scan: Any = node(
            "Scan",
            ["h0", "c0", "zero", "x"],
            ["h1", "c1", "t1", "y", *(f"{k}_flat" for k in GATES)],
            body=body,
            num_scan_inputs=1,
            scan_input_axes=[1],
            scan_output_axes=[1] * 5,
        )
        constants: dict[str, npt.NDArray[Any]] = {
            "zero": np.array(0, np.int32),
            "one": np.array(1, np.int32),
            "axis1": np.array([1], np.int64),
            "axis2": np.array([2], np.int64),
            **{
                f"{_prefix(k)}.{name}": table[k]
                for name, table in (("W.T", self.W), ("R.T", self.R), ("b", self.b))
                for k in GATES
            },
        }
        state_shape: list[str | int] = ["batch", 1, self.hidden]
        graph = helper.make_graph(
            [
                *(node("Squeeze", [k, "axis1"], [f"{k}0"]) for k in "hc"),
                scan,
                *(node("Unsqueeze", [f"{k}1", "axis1"], [f"{k}_next"]) for k in "hc"),
                *(node("Unsqueeze", [f"{k}_flat", "axis2"], [k]) for k in GATES),
            ],
            name,
            [
                value("x", TensorProto.FLOAT, ["batch", "time", self.features]),
                value("length", TensorProto.INT32, ["batch"]),
                *(value(k, TensorProto.FLOAT, state_shape) for k in "hc"),
            ],
            [
                value("y", TensorProto.FLOAT, ["batch", "time", self.hidden]),
                *(value(f"{k}_next", TensorProto.FLOAT, state_shape) for k in "hc"),
                *(value(k, TensorProto.FLOAT, ["batch", "time", 1, self.hidden]) for k in GATES),
            ],
            [numpy_helper.from_array(array, key) for key, array in constants.items()],
        )
        return save(path, graph, self._spec(name))

    def save_fused(self, path: Path, name: str = "lstm") -> Path:
        """Write the same network with the operator LSTM in place of the equations: no gates are shown."""
        node, value = helper.make_node, helper.make_tensor_value_info
        state_shape: list[str | int] = ["batch", 1, self.hidden]
        packed = {
            "W": np.concatenate([self.W[k].T for k in ONNX_ORDER])[None],
            "R": np.concatenate([self.R[k].T for k in ONNX_ORDER])[None],
            "B": np.concatenate([*(self.b[k] for k in ONNX_ORDER), np.zeros(4 * self.hidden, np.float32)])[None],
        }
        graph = helper.make_graph(
            [
                node("Transpose", ["x"], ["x_time"], perm=[1, 0, 2]),
                *(node("Transpose", [k], [f"{k}0"], perm=[1, 0, 2]) for k in "hc"),
                node(
                    "LSTM",
                    ["x_time", *(f"cells.0.lstm.{k}" for k in "WRB"), "length", "h0", "c0"],
                    ["y_time", "h1", "c1"],
                    hidden_size=self.hidden,
                ),
                node("Squeeze", ["y_time", "axis1"], ["y_flat"]),
                node("Transpose", ["y_flat"], ["y"], perm=[1, 0, 2]),
                *(node("Transpose", [f"{k}1"], [f"{k}_next"], perm=[1, 0, 2]) for k in "hc"),
            ],
            name,
            [
                value("x", TensorProto.FLOAT, ["batch", "time", self.features]),
                value("length", TensorProto.INT32, ["batch"]),
                *(value(k, TensorProto.FLOAT, state_shape) for k in "hc"),
            ],
            [
                value("y", TensorProto.FLOAT, ["batch", "time", self.hidden]),
                *(value(f"{k}_next", TensorProto.FLOAT, state_shape) for k in "hc"),
            ],
            [
                numpy_helper.from_array(np.array([1], np.int64), "axis1"),
                *(numpy_helper.from_array(array, f"cells.0.lstm.{k}") for k, array in packed.items()),
            ],
        )
        spec = self._spec(name)
        spec.form, spec.packed_gate_order = pb.FORM_FUSED, ONNX_ORDER_NAME
        del spec.gates[:]
        return save(path, graph, spec)

    def _spec(self, name: str) -> pb.ModelSpec:
        return pb.ModelSpec(
            contract=spec_module.CONTRACT,
            name=name,
            version="1",
            form=pb.FORM_GATES,
            cell=pb.CELL_KIND_LSTM,
            layers=1,
            hidden=self.hidden,
            inputs=[pb.TensorSpec(name="x", dtype=pb.DATA_TYPE_FLOAT32, shape=[self.features])],
            length_input="length",
            outputs=[pb.TensorSpec(name="y", dtype=pb.DATA_TYPE_FLOAT32, shape=[self.hidden])],
            states=[
                pb.StateSpec(input=k, output=f"{k}_next", dtype=pb.DATA_TYPE_FLOAT32, shape=[1, self.hidden])
                for k in "hc"
            ],
            gates=[pb.GateSpec(name=GATES[k], symbol=k, output=k) for k in GATES],
            opset=OPSET,
        )


def _prefix(symbol: str) -> str:
    return f"cells.0.{BY_SYMBOL[symbol].module}"

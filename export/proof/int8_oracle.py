"""The equations of a network with int8 weights, in NumPy, written from what `formats` says in words.

As `oracle`, but for what a matrix multiplies, which is rounded first: the hidden states to 63rds, and each row of the
first layer's input to 63rds of its own largest number. Products and sums are exact in whole numbers, so what they
stand for is computed here, in float64.

Where a number lies, to float32's last bits, between two that it could be rounded to, two right programs part by a whole
63rd. So nothing is carried here from layer to layer or from step to step: every layer of every step starts from what
the model itself computed before it, to the bit. Only what a linear encoder makes of an input is not known to the bit;
there `doubt` says how much a step may differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gatestream.export.proof.oracle import Floats, Oracle
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb

_STEP = np.float32(1 / 63)
_BETWEEN = 1e-3
"""How near the middle of two steps a number is in doubt, in steps."""

_GATES = (("i", "input_gate"), ("f", "forget_gate"), ("g", "cell_candidate"), ("o", "output_gate"))


@dataclass(frozen=True, slots=True)
class Step:
    """One step of many rows.

    Attributes:
        values: y [rows, outputs]; h and c after the step, i, f, g and o, each [rows, layers, hidden].
        doubt: by how much they may be off; y: not at all.
    """

    values: Mapping[str, Floats]
    doubt: Mapping[str, Floats]


class Int8Oracle:
    """A network whose cells' matrices stand for whole numbers times scales.

    Args:
        weights: what the file's weights stand for, by the checkpoint's names.
        spec: for the number of layers, and what the input and the output mean.
        dtype: to compute in: float64 for the value, float32 for what becomes of it there.
    """

    def __init__(
        self,
        weights: Mapping[str, NDArray[np.float32]],
        spec: pb.ModelSpec,
        dtype: type[np.float64] | type[np.float32] = np.float64,
    ) -> None:
        self._dtype = dtype
        self._weights = weights
        self._layers = spec.layers
        self._encoder = Oracle(weights, spec, np.float32)
        self._network = Oracle(weights, spec, dtype)

    def step(
        self, x: NDArray[np.generic], h: NDArray[np.float32], c: NDArray[np.float32], after: NDArray[np.float32]
    ) -> Step:
        """Take one step of each row.

        Args:
            x: [rows] token ids, or [rows, features].
            h: the model's hidden states before, [rows, layers, hidden].
            c: its cell states before.
            after: its hidden states after: what each layer hands to the one above.
        """
        columns: dict[str, list[Floats]] = {name: [] for name in "ifgoch"}
        doubts: dict[str, list[Floats]] = {name: [] for name in "ifgoch"}
        for layer in range(self._layers):
            below, doubt = self._input(x) if layer == 0 else (self._rounded(after[:, layer - 1]), None)
            i, f, g, o = self._network.gates(layer, below, self._rounded(h[:, layer]))
            c_next = f * c[:, layer] + i * g
            found = {"i": i, "f": f, "g": g, "o": o, "c": c_next, "h": o * np.tanh(c_next)}
            d = self._doubt(layer, doubt, i.shape, np.abs(c[:, layer]))
            for name in columns:
                columns[name].append(found[name])
                doubts[name].append(d[name])
        values = {name: np.stack(column, axis=1) for name, column in columns.items()}
        values["y"] = self._network.decode(after[:, -1].astype(self._dtype))
        return Step(values, {name: np.stack(column, axis=1) for name, column in doubts.items()})

    def _rounded(self, h: NDArray[np.float32]) -> Floats:
        # float32 divides as the graph does: which whole number it is must not depend on us.
        whole = np.clip(np.rint(h / _STEP), -64, 191)
        rounded: Floats = whole.astype(self._dtype) * self._dtype(_STEP)
        return rounded

    def _input(self, x: NDArray[np.generic]) -> tuple[Floats, Floats | None]:
        """The first layer's input as it is rounded, and, where a linear encoder made it, in what doubt it is."""
        encoded = self._encoder.encode(x).astype(np.float32)
        top = np.maximum(np.abs(encoded).max(axis=1, keepdims=True), np.float32(1e-30))
        steps = encoded / top / _STEP
        width = self._dtype(_STEP) * top.astype(self._dtype)
        between = np.abs(steps - np.floor(steps) - 0.5) < _BETWEEN
        linear = any(name.startswith("encoder.") and name.endswith(".bias") for name in self._weights)
        return np.rint(steps).astype(self._dtype) * width, between * width if linear else None

    def _doubt(
        self, layer: int, below: Floats | None, shape: tuple[int, ...], c: NDArray[np.floating]
    ) -> dict[str, Floats]:
        """How far all is off when what is in doubt was rounded the other way."""
        if below is None:
            return dict.fromkeys("ifgoch", np.zeros(shape, self._dtype))
        d: dict[str, Floats] = {}
        for symbol, module in _GATES:
            steepest = 1 if symbol == "g" else 0.25
            d[symbol] = steepest * (below @ np.abs(self._weights[f"cells.{layer}.{module}.W"]).T)
        d["c"] = d["f"] * c + d["i"] + d["g"]
        d["h"] = d["o"] + d["c"]
        return d

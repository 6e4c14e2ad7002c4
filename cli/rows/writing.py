"""From answers to text: one line, or one token, for each step."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gatestream.cli.rows import Form, RowsError
from gatestream.client.columns import Array
from gatestream.client.results import Answer
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb


class Writer:
    """Writes the answers of one model."""

    def __init__(self, spec: pb.ModelSpec, form: Form, *, gates: bool) -> None:
        """Prepare to write.

        Args:
            spec: the model's.
            form: csv: a header, then the numbers of every output, and of the gates. jsonl: objects with the position
                of the step, an array for each output, and the gates by name. text: the token ranked highest.
            gates: write the gate activations too.

        Raises:
            RowsError: the form does not fit the model or the gates.
        """
        self._spec = spec
        self._form = form
        self._gates = gates
        self._amid_line = False
        self._tokens = list(spec.outputs[0].vocabulary)
        if form == "text" and not self._tokens:
            raise RowsError(f"model '{spec.name}' answers with numbers, not with tokens; write csv or jsonl")
        if form == "text" and gates:
            raise RowsError("gates are numbers, and text is tokens; write csv or jsonl")

    def header(self) -> str:
        """What comes before the first answer."""
        if self._form != "csv":
            return ""
        names = [name for output in self._spec.outputs for name in _names(output)]
        if self._gates:
            for gate in self._spec.gates:
                units = np.ndindex(tuple(gate.shape) or (self._spec.layers, self._spec.hidden))
                names += ["_".join([gate.name, *map(str, unit)]) for unit in units]
        return _csv(names)

    def answer(self, answer: Answer) -> str:
        """One step's answer."""
        if self._form == "text":
            token = self._tokens[int(np.argmax(answer.y))]
            self._amid_line = token != "\n"
            return token
        arrays = [*answer.outputs.values(), *(answer.gates.values() if self._gates else ())]
        if self._form == "csv":
            # Of bools 1 and 0, as they are read.
            numbers = (array.view(np.uint8) if array.dtype.kind == "b" else array for array in arrays)
            return _csv(str(value) for array in numbers for value in array.ravel())
        line: dict[str, Any] = {"position": answer.position, **_lists(answer.outputs)}
        if self._gates:
            line["gates"] = _lists(answer.gates)
        return json.dumps(line) + "\n"

    def breaks(self, lines: int) -> str:
        """Where so many lines of text ended: text keeps to the lines of what was read."""
        if self._form != "text" or not lines:
            return ""
        self._amid_line = False
        return "\n" * lines

    def end(self) -> str:
        """What comes after the last answer."""
        return "\n" if self._amid_line else ""


def _names(output: pb.TensorSpec) -> list[str]:
    width = math.prod(output.shape)
    named = list(output.columns or output.vocabulary)
    if len(named) == width:
        return named
    return [output.name] if width == 1 else [f"{output.name}_{place}" for place in range(width)]


def _lists(arrays: Mapping[str, Array]) -> dict[str, Any]:
    return {name: _shortest(array).tolist() for name, array in arrays.items()}


def _shortest(array: Array) -> Array:
    """Floats with the shortest digits that are these, say, float32, not those of the float64 nearest to each."""
    if array.dtype.kind != "f":
        return array
    return np.array([float(str(value)) for value in array.ravel()]).reshape(array.shape)


def _csv(fields: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(fields)
    return line.getvalue()

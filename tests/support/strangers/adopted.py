"""An artifact of contract 2 run in onnxruntime, with nothing of the server or of the export's own proof."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from gatestream.protos import spec as spec_module
from gatestream.protos.layout import ModelLayout
from tests.support.strangers.stranger import Array, Arrays


class Adopted:
    """An artifact, its sessions' states kept as arrays.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.spec = spec_module.from_metadata(metadata, path.name)
        self._layout = ModelLayout.of(self.spec)
        self._becomes = {tensor.name: tensor.becomes for tensor in self.spec.source.tensors if tensor.becomes}

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Those of each step, and the shape of a row."""
        return {column.name: column.shape for column in self._layout.inputs}

    def start(self, rows: int, constants: Sequence[Mapping[str, Array]] = ()) -> Arrays:
        """New sessions.

        Args:
            rows: how many.
            constants: of each, by the source's names; none: the file's own.

        Returns:
            By state, [rows, *shape].
        """
        states = {state.name: np.repeat(state.first()[None], rows, 0) for state in self._layout.states}
        for row, given in enumerate(constants):
            for name, value in given.items():
                states[self._becomes.get(name, name)][row] = value
        return states

    def advance(self, states: Arrays, xs: Sequence[Arrays]) -> list[Arrays]:
        """One run.

        Args:
            states: replaced by those after it.
            xs: of each row, by the source's names, each [time, *shape], of any lengths where the file takes lengths.

        Returns:
            Of each row, by the artifact's names, each [time, *shape].
        """
        lengths = [len(next(iter(x.values()))) for x in xs]
        feeds = dict(states)
        for name in xs[0]:
            column = np.zeros((len(xs), max(lengths), *xs[0][name].shape[1:]), xs[0][name].dtype)
            for row, x in enumerate(xs):
                column[row, : lengths[row]] = x[name]
            feeds[self._becomes.get(name, name)] = column
        if self.spec.length_input:
            feeds[self.spec.length_input] = np.array(lengths, np.int32)
        elif len(set(lengths)) > 1:
            raise ValueError(f"rows of unlike length, {lengths}, for a file that takes no lengths")
        names = [value.name for value in self._session.get_outputs()]
        results = dict(zip(names, self._session.run(None, feeds), strict=True))
        states.update({state.name: results[state.after] for state in self._layout.states})
        return [
            {output.name: results[output.name][row, :length] for output in self._layout.outputs}
            for row, length in enumerate(lengths)
        ]

    def named(self, outputs: Arrays, name: str) -> Array:
        """The output that the source calls so."""
        return outputs[self._becomes.get(name, name)]

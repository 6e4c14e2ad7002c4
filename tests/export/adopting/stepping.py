"""The oracle: a file run whole in onnxruntime, and what was made of it run in pieces with its states carried."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from gatestream.export.adopting.states import Pair

Array = NDArray[Any]


def run(model: onnx.ModelProto | ir.Model | Path, feed: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs of one run."""
    if isinstance(model, ir.Model):
        model = ir.to_proto(model)
    data = str(model) if isinstance(model, Path) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feed)), strict=True))


def start(pairs: Sequence[Pair], rows: int) -> dict[str, Array]:
    """What a new session's states are, for so many rows."""
    found = {}
    for pair in pairs:
        assert pair.input.shape is not None
        assert pair.input.dtype is not None
        shape = [dim if isinstance(dim, int) else 1 for dim in pair.input.shape]
        one = np.zeros(shape) if pair.initial is None else pair.initial
        assert one.shape == tuple(shape)
        repeats = [rows if axis == pair.batch_axis else 1 for axis in range(one.ndim)]
        found[pair.input.name or ""] = np.tile(one, repeats).astype(pair.input.dtype.numpy())
    return found


def stepped(
    model: ir.Model,
    pairs: Sequence[Pair],
    feed: Mapping[str, Array],
    cuts: Sequence[int],
    time: Mapping[str, int],
    rows: int = 2,
    forgotten: Sequence[Pair] = (),
    lengths: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Array]:
    """All outputs but the states, joined along time.

    Args:
        model: with states as inputs and outputs.
        pairs: these.
        feed: the inputs that are no states, whole.
        cuts: how many steps each run takes.
        time: the axis of time of each input and output that has one.
        rows: of the feed.
        forgotten: states that start anew in every run.
        lengths: by input, how many steps of each row are real.
    """
    session_model = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(session_model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    states, anew = start(pairs, rows), start(forgotten, rows)
    parts: list[dict[str, Array]] = []
    done = 0
    for count in cuts:
        piece = {
            name: array.take(range(done, done + count), time[name]) if name in time else array
            for name, array in feed.items()
        }
        for name, real in (lengths or {}).items():
            piece[name] = np.clip(np.array(real) - done, 0, count).astype(np.int32)
        found = dict(zip(names, session.run(names, piece | states | anew), strict=True))
        states = {pair.input.name or "": found.pop(pair.output.name or "") for pair in pairs}
        for pair in forgotten:
            del found[pair.output.name or ""]
        parts.append(found)
        done += count
    return {
        name: np.concatenate([part[name] for part in parts], time[name]) if name in time else parts[-1][name]
        for name in parts[0]
    }


def assert_streams(
    original: onnx.ModelProto | Path,
    model: ir.Model,
    pairs: Sequence[Pair],
    feed: Mapping[str, Array],
    time: Mapping[str, int],
    rows: int = 2,
    atol: float = 1e-5,
) -> None:
    """In steps, in chunks and whole, it gives what the original gives whole."""
    expected = run(original, feed)
    [steps] = {feed[name].shape[axis] for name, axis in time.items() if name in feed}
    for cuts in ([1] * steps, [steps // 2, steps - steps // 2], [1, steps - 2, 1], [steps]):
        found = stepped(model, pairs, feed, cuts, time, rows)
        for name, values in found.items():
            np.testing.assert_allclose(values, expected[name], atol=atol, rtol=1e-5, err_msg=f"{name} in {cuts}")
    for pair in pairs:
        forgotten = stepped(
            model, [other for other in pairs if other is not pair], feed, [1] * steps, time, rows, [pair]
        )
        assert any(
            not np.allclose(values, expected[name], atol=1e-4) for name, values in forgotten.items() if name in expected
        ), f"losing '{pair.input.name}' changes nothing"

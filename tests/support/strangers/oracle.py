"""A stranger's file run by its own convention: one session, alone, in onnxruntime, the file as it came."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from tests.support.strangers.stranger import Array, Arrays, Stranger, Tensor

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(bool)": np.bool_,
}


_LEAST_SAMPLES = 100
"""In a window of sound."""


class Oracle:
    """The original file.

    Args:
        stranger: what it is.
    """

    def __init__(self, stranger: Stranger):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(str(stranger.path), options, providers=["CPUExecutionProvider"])
        self._stranger = stranger
        self._shapes = {value.name: list(value.shape) for value in self._session.get_inputs()}
        self._dtypes = {value.name: _DTYPES[value.type] for value in self._session.get_inputs()}

    def sample(self, steps: int, seed: int) -> Arrays:
        """Random inputs of one session, each [time, *shape]."""
        rng = np.random.default_rng(seed)
        return {
            tensor.name: self._noise(rng, tensor, (steps, *self._row_shape(tensor))) for tensor in self._stranger.inputs
        }

    def sample_constants(self, seed: int) -> Arrays:
        """Random constants of one session, each of the shape that it has for one."""
        rng = np.random.default_rng(1000 + seed)
        return {
            name: rng.normal(0, 1, self._shapes[name][1:]).astype(self._dtypes[name])
            for name in self._stranger.per_session
        }

    def run(self, xs: Arrays, constants: Mapping[str, Array] | None = None) -> Arrays:
        """From the initial state: what the file gives for a sequence.

        Args:
            xs: by input, [time, *shape].
            constants: of the session, by input.

        Returns:
            By output, [time, *shape].
        """
        feeds = {**self._stranger.fixed, **{k: v[None] for k, v in (constants or {}).items()}, **self._start()}
        feeds |= {name: self._anything(name) for name in self._stranger.ignored}
        steps = len(next(iter(xs.values())))
        pieces = [slice(0, steps)] if self._stranger.whole else [slice(t, t + 1) for t in range(steps)]
        before: Arrays = {
            name: np.zeros(samples, self._dtypes[name]) for name, samples in self._stranger.context.items()
        }
        found: dict[str, list[Array]] = {tensor.name: [] for tensor in self._stranger.outputs}
        for piece in pieces:
            for tensor in self._stranger.inputs:
                rows = xs[tensor.name][piece]
                if tensor.name in before:
                    past = np.concatenate([before[tensor.name], rows.ravel()])
                    before[tensor.name] = past[len(past) - len(before[tensor.name]) :]
                    reach = len(past) - rows.size + rows.shape[-1]
                    rows = np.stack([past[at : at + reach] for at in range(0, rows.size, rows.shape[-1])])
                feeds[tensor.name] = _placed(rows, tensor)
            names = [value.name for value in self._session.get_outputs()]
            results = dict(zip(names, self._session.run(None, feeds), strict=True))
            for tensor in self._stranger.outputs:
                found[tensor.name].append(_taken(results[tensor.name], tensor))
            for state in self._stranger.states:
                feeds[state.input] = results[state.output]
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _start(self) -> Arrays:
        return {
            state.input: np.zeros(
                [size if isinstance(size, int) else 1 for size in self._shapes[state.input]], self._dtypes[state.input]
            )
            for state in self._stranger.states
        }

    def _anything(self, name: str) -> Array:
        return np.full([size if isinstance(size, int) else 1 for size in self._shapes[name]], 7, self._dtypes[name])

    def _row_shape(self, tensor: Tensor) -> tuple[int, ...]:
        shape = [size for axis, size in enumerate(self._shapes[tensor.name]) if axis not in (tensor.batch, tensor.time)]
        if tensor.name in self._stranger.context and isinstance(shape[-1], int):
            shape[-1] -= self._stranger.context[tensor.name]
        return tuple(s if isinstance(s, int) else self._stranger.windows[tensor.name] for s in shape)

    def _noise(self, rng: np.random.Generator, tensor: Tensor, shape: tuple[int, ...]) -> Array:
        dtype = np.dtype(self._dtypes[tensor.name])
        sound = tensor.time is None or tensor.name in self._stranger.context
        if sound and len(shape) == 2 and shape[-1] >= _LEAST_SAMPLES:
            return voice(rng, *shape).astype(dtype)
        if dtype == np.bool_:
            return rng.integers(0, 2, shape).astype(np.bool_)
        if dtype == np.int16:
            return rng.integers(-8000, 8000, shape).astype(np.int16)
        if dtype.kind == "i":
            return rng.integers(0, tensor.limit, shape).astype(dtype)
        return rng.normal(0, 1, shape).astype(dtype)


def voice(rng: np.random.Generator, steps: int, samples: int) -> npt.NDArray[np.float64]:
    """Windows of something like speech at 16 kHz, [steps, samples]: harmonics that come and go, and a little noise."""
    seconds = np.arange(steps * samples) / 16000
    pitch = rng.uniform(100, 220) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(1, 3) * seconds))
    phase = 2 * np.pi * np.cumsum(pitch) / 16000
    harmonics = sum(rng.uniform(0.2, 1) / k * np.sin(k * phase + rng.uniform(0, 6)) for k in range(1, 20))
    loud = np.clip(np.sin(2 * np.pi * rng.uniform(2, 5) * seconds + rng.uniform(0, 6)), 0, 1)
    return (0.15 * loud * harmonics + rng.normal(0, 0.003, len(seconds))).reshape(steps, samples)


def _placed(rows: Array, tensor: Tensor) -> Array:
    """[time, *shape] as the file takes it, for one row."""
    if tensor.time is None:
        return rows if tensor.batch == 0 else rows[0] if tensor.batch is None else np.moveaxis(rows, 0, tensor.batch)
    if tensor.batch is None:
        return np.moveaxis(rows, 0, tensor.time)
    # Both axes go to the front, and from there to their places, the earlier one first.
    placed = np.moveaxis(rows[None], (0, 1), (tensor.batch, tensor.time))
    return np.ascontiguousarray(placed)


def _taken(values: Array, tensor: Tensor) -> Array:
    """The inverse of `_placed`."""
    if tensor.time is None:
        return np.asarray(values[None] if tensor.batch is None else np.moveaxis(values, tensor.batch, 0))
    if tensor.batch is None:
        return np.moveaxis(values, tensor.time, 0)
    return np.asarray(np.moveaxis(values, (tensor.batch, tensor.time), (0, 1))[0])

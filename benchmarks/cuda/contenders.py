"""One step of a batch, by gatestream's state arena and by torch."""

import time
from collections.abc import Callable, Iterable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.harness.bench import Pace
from benchmarks.harness.statistics import Figures
from gatestream.model.cell import LSTMCell
from gatestream.model.network import Network
from gatestream.server.backend.runner import Runner

Array = npt.NDArray[Any]
Step = Callable[[], object]


class Arena:
    """gatestream: states in the arena, inputs from host memory, outputs back into it.

    Args:
        runner: holds at least `batch` rows.
        x: [batch, inputs].
    """

    def __init__(self, runner: Runner, x: Array):
        batch = len(x)
        self._runner = runner
        # Sessions come and go: the rows of a batch lie anywhere.
        self._slots = np.random.default_rng(1).permutation(batch).astype(np.int64)
        self._x = np.ascontiguousarray(x[:, None])
        self._lengths = np.ones(batch, np.int32)

    def step(self) -> Array:
        """The outputs, [batch, outputs]."""
        outputs, _ = self._runner.step(self._slots, [self._x], self._lengths, gates=False)
        return outputs[0][:, 0]

    @property
    def input_bytes(self) -> int:
        """What a step must bring to the device: inputs, slots, lengths."""
        return self._x.nbytes + self._slots.nbytes + self._lengths.nbytes


class Limit:
    """torch.nn.LSTM (on CUDA: cuDNN) and the head on the same weights, h and c resident on the device.

    Args:
        network: of one layer, without encoder.
        x: [batch, inputs].
        device: as torch names it.
    """

    def __init__(self, network: Network, x: Array, device: str):
        (cell,) = cast(Iterable[LSTMCell], network.cells)
        W, R, b = cell.packed()
        self._lstm = nn.LSTM(cell.inputs, cell.hidden, batch_first=True)
        weights = {"weight_ih_l0": W, "weight_hh_l0": R, "bias_ih_l0": b, "bias_hh_l0": torch.zeros_like(b)}
        self._lstm.load_state_dict(weights)
        self._lstm.to(device).eval()
        self._head = nn.Linear(cell.hidden, network.config.outputs)
        self._head.load_state_dict(network.head.state_dict())
        self._head.to(device).eval()
        self._device = device
        self._x = torch.from_numpy(np.ascontiguousarray(x[:, None]))
        self._resident = self._x.to(device)
        self._state = (torch.zeros(1, len(x), cell.hidden, device=device),) * 2

    @torch.inference_mode()
    def step(self) -> Array:
        """The outputs, [batch, outputs]: the same work and the same copies as `Arena.step`."""
        hs, self._state = self._lstm(self._x.to(self._device), self._state)
        y: Array = self._head(hs).cpu().numpy()
        return y[:, 0]

    @torch.inference_mode()
    def step_alone(self) -> None:
        """The LSTM and nothing else: no copy, no head."""
        _, self._state = self._lstm(self._resident, self._state)
        if self._device == "cuda":
            torch.cuda.synchronize()


def window(step: Step, batch: int, pace: Pace) -> Figures:
    """Steps one after another, each complete before the next begins, by the clock on the wall."""
    _loop(step, pace.warm_up)
    durations = np.array(_loop(step, pace.seconds))
    return {
        "steps_per_s": batch * len(durations) / float(durations.sum()),
        "p50_us": 1e6 * float(np.median(durations)),
        "p99_us": 1e6 * float(np.quantile(durations, 0.99)),
    }


def _loop(step: Step, seconds: float) -> list[float]:
    durations: list[float] = []
    before = time.perf_counter()
    end = before + seconds
    while before < end:
        step()
        after = time.perf_counter()
        durations.append(after - before)
        before = after
    return durations

"""limit-run: onnxruntime alone. One batch stepped over and over, its states handed from run to run.

Every buffer is made and bound once (IOBinding), which is the cheapest way that onnxruntime has; a run through
`InferenceSession.run` costs some microseconds more. Reads "WARM_UP SECONDS" from standard input and answers each line
with one line of JSON.
"""

import argparse
import json
import sys
import time
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import onnxruntime as ort

WANTED = ("y", "h_next", "c_next")


class Repeated(ABC):
    """One run, made over and over.

    Args:
        steps: that a run takes, of all its sessions.
    """

    def __init__(self, steps: int):
        self._steps = steps

    @abstractmethod
    def run(self, number: int) -> None:
        """The run of this number, which takes the states that the one before it left."""

    def measure(self, warm_up: float, seconds: float) -> dict[str, float]:
        self._loop(warm_up)
        cpu = time.process_time()
        durations = np.array(self._loop(seconds))
        total = float(durations.sum())
        return {
            "runs": len(durations),
            "steps_per_s": self._steps * len(durations) / total,
            "p50_us": 1e6 * float(np.median(durations)),
            "p99_us": 1e6 * float(np.quantile(durations, 0.99)),
            "server_cores": (time.process_time() - cpu) / total,
        }

    def _loop(self, seconds: float) -> list[float]:
        durations: list[float] = []
        clock = time.perf_counter
        end = clock() + seconds
        before = clock()
        while before < end:
            self.run(len(durations))
            after = clock()
            durations.append(after - before)
            before = after
        return durations

    def answer(self) -> None:
        """Measure a window for each line of standard input, until it ends."""
        for line in sys.stdin:
            warm_up, seconds = map(float, line.split())
            sys.stdout.write(json.dumps(self.measure(warm_up, seconds)) + "\n")
            sys.stdout.flush()


class BareRun(Repeated):
    """A batch of sessions that all take `steps` steps in each run."""

    def __init__(self, path: str, batch: int, steps: int, threads: int):
        super().__init__(batch * steps)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # One thread needs none to spin for; with more, this is about the limit, and a limit may burn cores.
        options.log_severity_level = 3
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        rng = np.random.default_rng(0)
        feed: dict[str, Any] = {"length": np.full(batch, steps, np.int32)}
        for item in self._session.get_inputs():
            shape = [batch, *([steps] if item.name == "x" else []), *item.shape[2 if item.name == "x" else 1 :]]
            if item.type == "tensor(int64)":
                feed["x"] = rng.integers(0, 7, shape)
            elif item.name != "length":
                feed[item.name] = rng.standard_normal(shape, np.float32)
        inputs = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feed.items()}
        outputs = {
            name: ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in zip(WANTED, self._session.run(list(WANTED), feed), strict=True)
        }
        # What one run writes, the next one reads.
        self._bindings = []
        for _ in range(2):
            binding = self._session.io_binding()
            for name, value in inputs.items():
                binding.bind_ortvalue_input(name, value)
            for name, value in outputs.items():
                binding.bind_ortvalue_output(name, value)
            self._bindings.append(binding)
            for name, after in (("h", "h_next"), ("c", "c_next")):
                inputs[name], outputs[after] = outputs[after], inputs[name]

    def run(self, number: int) -> None:
        self._session.run_with_iobinding(self._bindings[number % 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    BareRun(arguments.artifact, arguments.batch, arguments.steps, arguments.threads).answer()


if __name__ == "__main__":
    main()

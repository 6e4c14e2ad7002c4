"""limit-original: a stranger's file as its users run it, by `InferenceSession.run`, its state handed from run to run.

Of one window a run: its input `x` [batch, samples] and its state `state`, which becomes `state_next`. Reads and answers
as limit-run does.
"""

import argparse

import numpy as np
import onnxruntime as ort

from benchmarks.contenders.run import Repeated


class Original(Repeated):
    """A batch of sessions that all take one step in each run."""

    def __init__(self, path: str, batch: int):
        super().__init__(batch)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        rng = np.random.default_rng(0)
        self._feed = {
            value.name: rng.standard_normal([size if isinstance(size, int) else batch for size in value.shape]).astype(
                np.float32
            )
            for value in self._session.get_inputs()
        }

    def run(self, number: int) -> None:
        _, self._feed["state"] = self._session.run(["y", "state_next"], self._feed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--batch", type=int, required=True)
    arguments = parser.parse_args()
    Original(arguments.file, arguments.batch).answer()


if __name__ == "__main__":
    main()

"""How far the outputs of two files are apart, each with a state of its own, over 256 steps of 8 sessions.

Prints one line of JSON.
"""

import argparse
import json

import numpy as np
import onnxruntime as ort

STEPS, ROWS = 256, 8


def outputs(path: str) -> np.ndarray:
    """[steps, rows, outputs]; the same inputs for every file of a model."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    shapes = {item.name: item.shape for item in session.get_inputs()}
    rng = np.random.default_rng(0)
    h, c = (np.zeros((ROWS, *shapes[name][1:]), np.float32) for name in "hc")
    length = np.ones(ROWS, np.int32)
    found = []
    for _ in range(STEPS):
        x = rng.standard_normal((ROWS, 1, *shapes["x"][2:]), np.float32)
        y, h, c = session.run(["y", "h_next", "c_next"], {"x": x, "length": length, "h": h, "c": c})
        found.append(y[:, 0])
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact")
    parser.add_argument("others", nargs="+")
    arguments = parser.parse_args()
    expected = outputs(arguments.artifact)
    print(json.dumps({path: float(np.abs(outputs(path) - expected).max()) for path in arguments.others}))


if __name__ == "__main__":
    main()

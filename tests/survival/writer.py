"""A client that is there to be killed: steps one session, and says what it was answered.

`python -m tests.survival.writer ADDRESS ID MODE SEED`: takes the session up where it stands, and goes on with the
inputs from there on. Each line is a position, and the outputs of the steps up to it in hexadecimal digits; the first
has none.
"""

import sys

import numpy as np
import numpy.typing as npt

from gatestream.client import connect
from gatestream.client.models import OpenMode

LONGEST = 20
"""Steps of one call, at most."""
_CYCLE = 4099


def inputs(seed: int, first: int, steps: int) -> npt.NDArray[np.int64]:
    """Tokens for the reference model, [steps]."""
    cycle = np.random.default_rng(seed).integers(0, 7, _CYCLE)
    return cycle[np.arange(first, first + steps) % _CYCLE]


def main(address: str, name: str, mode: OpenMode, seed: int) -> None:
    """Step without end."""
    rng = np.random.default_rng()
    with connect(address) as client, client.session("reber", id=name, mode=mode) as session:
        print(session.position, flush=True)
        while True:
            ys = session.run(inputs(seed, session.position, int(rng.integers(1, LONGEST + 1))))
            print(session.position, np.asarray(ys).tobytes().hex(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))  # type: ignore[arg-type]

"""One unbroken session of fresh Reber symbols through a running server, every prediction judged: `make million`."""

import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gatestream.client import Session, connect
from gatestream.model.tasks import reber
from tests.support.process import serving

SYMBOLS = 1_000_000
CHUNK = 2_000


def judged(session: Session, symbols: int, seed: int, chunk: int) -> Iterator[tuple[int, int, float]]:
    """Run a session through a stream; of each chunk: symbols, illegal predictions, least margin in nats."""
    stream = reber.Streams(1, seed)
    for begin in range(0, symbols, chunk):
        inputs, _, legal = stream.take(min(chunk, symbols - begin))
        scores = session.run(inputs[0])
        yield len(scores), reber.illegal(scores, legal[0]), float(reber.margin(scores, legal[0]).min())


def main(artifact: Path) -> int:
    seed = secrets.randbits(32)
    print(f"{SYMBOLS:,} symbols, seed {seed}, through gatestream serve {artifact}", flush=True)
    began = time.monotonic()
    illegal, least = 0, np.inf
    with (
        serving(artifact) as server,
        connect(server.address) as gs,
        gs.session("reber", mode="create") as session,
        tqdm(total=SYMBOLS, unit=" symbols", unit_scale=True, mininterval=1) as bar,
    ):
        for symbols, mistakes, margin in judged(session, SYMBOLS, seed, CHUNK):
            illegal += mistakes
            least = min(least, margin)
            bar.update(symbols)
        (info,) = gs.list_sessions()
    seconds = time.monotonic() - began
    print(f"session {info.session_id} stands at position {info.position:,} after {seconds:.0f} s")
    print(f"illegal predictions: {illegal}; least margin {least:.2f} nats")
    return int(illegal > 0 or info.position != SYMBOLS)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

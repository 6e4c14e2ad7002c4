"""The real parts driven at random for long: `python -m tests.resume.walks`."""

import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path

import click
import structlog

from tests.resume.simulated import walk
from tests.support.artifacts import accumulator


@click.command()
@click.option("--walks", default=400, show_default=True)
@click.option("--steps", default=600, show_default=True, help="Of each, before all goes well.")
@click.option("--seed", default=1, show_default=True, help="Of the first; the others have those that follow.")
def main(walks: int, steps: int, seed: int) -> None:
    """Drive the real client protocol, servers and store at random; nothing may be lost, doubled or changed."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = accumulator(Path(folder) / "accumulator.onnx")
        for each in range(seed, seed + walks):
            try:
                seen += asyncio.run(walk(path, each, steps))
            except Exception as error:
                seen["walks that went wrong"] += 1
                print(f"seed {each}: {error!r}", flush=True)
    print(", ".join(f"{name}: {count}" for name, count in seen.items()))
    sys.exit(seen["walks that went wrong"] > 0)


if __name__ == "__main__":
    main()

"""limit-both: limit-echo that makes limit-run's run, once, between a message and its echo.

No server on grpc.aio that keeps a message's steps together does less.
"""

import argparse
import itertools
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.contenders.echo import run
from benchmarks.contenders.run import BareRun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--tuned", action="store_true", help="as gatestream tunes itself")
    options = parser.parse_args()
    model = BareRun(options.artifact, options.batch, options.steps, threads=1)

    async def echo_and_run(messages: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        numbers = itertools.count()
        async for message in messages:
            model.run(next(numbers))
            yield message

    run(echo_and_run, tuned=options.tuned)


if __name__ == "__main__":
    main()

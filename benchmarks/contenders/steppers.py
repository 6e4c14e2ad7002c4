"""Sessions of one client, each stepped again when it is answered, whatever becomes of their server meanwhile.

For each line on standard input it waits until every session has been answered since, and prints one line of JSON with
the seconds that took.
"""

import argparse
import asyncio
import json
import sys
import time

import numpy as np

from gatestream.client import aio

PATIENCE_SECONDS = 60.0


class Steppers:
    """Sessions that step.

    Args:
        client: whose they are.
        arguments: of the command line.
    """

    def __init__(self, client: aio.Client, arguments: argparse.Namespace):
        self._client = client
        self._arguments = arguments
        self._waiting: set[int] = set()
        self._all_answered = asyncio.Event()

    async def run(self) -> None:
        """Step, and answer lines, until there are no more."""
        count = self._arguments.sessions
        sessions = await asyncio.gather(*(self._client.session(self._arguments.model) for _ in range(count)))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._step(*each)) for each in enumerate(sessions)]
            while await asyncio.to_thread(sys.stdin.readline):
                began = time.perf_counter()
                self._waiting, self._all_answered = set(range(count)), asyncio.Event()
                await self._all_answered.wait()
                sys.stdout.write(json.dumps({"seconds": time.perf_counter() - began}) + "\n")
                sys.stdout.flush()
            for task in tasks:
                task.cancel()

    async def _step(self, number: int, session: aio.Session) -> None:
        row = np.zeros(self._arguments.features, np.float32)
        while True:
            await session.step(row)
            self._waiting.discard(number)
            if not self._waiting:
                self._all_answered.set()


async def main(arguments: argparse.Namespace) -> None:
    async with aio.connect(f"127.0.0.1:{arguments.port}", timeout=PATIENCE_SECONDS) as client:
        await Steppers(client, arguments).run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("port", "sessions", "features"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--model", required=True)
    asyncio.run(main(parser.parse_args()))

"""Before the answer: what is told of a session holds, whoever has it, lets go of it and claims it meanwhile."""

import asyncio
import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.config import Limits
from gatestream.server.core.catalog import Catalog
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.core.kept import meaning
from gatestream.server.core.migration import migrate
from gatestream.server.durability.checkpoints import Claim, Key
from gatestream.server.errors import NotLoaded, Refused
from tests.server.transport.test_fenced import Slow
from tests.support.artifacts import accumulator
from tests.support.in_process import Client, serving_here

LIMITS = Limits(sessions=8)
TURNS = 40
WHAT = {"step": 8, "open": 3, "end": 1, "claim": 2, "move": 2, "hang": 3, "go on": 3, "wait": 3}


class Told:
    """What clients of one session have heard, which sums up what it is sent."""

    def __init__(self) -> None:
        self.sums: dict[int, float] = {}

    def results(self, results: pb.Results) -> None:
        """Take what one message tells."""
        lengths = results.length or [1] * len(results.handle)
        values = np.frombuffer(results.output[0], "<f4")[::2].tolist()
        for first, length in zip(results.first, lengths, strict=True):
            for position in range(first + 1, first + length + 1):
                value = values.pop(0)
                assert self.sums.setdefault(position, value) == value, "two answers to the step of one position"

    def stands(self, position: int, value: float) -> None:
        """Whoever has the session from now on has it there."""
        assert max(self.sums, default=0) <= position, "an answer to a step that nobody has taken"
        if position:
            assert self.sums.setdefault(position, value) == value


async def listen(client: Client, told: Told) -> None:
    """Take what a stream is told, until it ends."""
    while (item := await client.stream.send_queue.take()) is not None:
        client.stream.rows -= item[1]
        message = pb.ServerMessage.FromString(bytes(item[0]))
        if message.HasField("results"):
            told.results(message.results)


class Meanwhile:
    """Some streams of one server, another server, and a store that writes when it may."""

    def __init__(self, catalog: Catalog, store: Slow, seed: int):
        self.catalog = catalog
        self.store = store
        self.rng = random.Random(seed)
        self.told = Told()
        self.streams: list[Client] = []
        self.listening: list[asyncio.Task[None]] = []
        self.handles: dict[int, int] = {}
        self.given = 0
        for _ in range(2):
            self.connect()

    def connect(self) -> None:
        self.streams.append(Client(self.catalog, LIMITS))
        self.listening.append(asyncio.create_task(listen(self.streams[-1], self.told)))

    def open(self, stream: int) -> None:
        handle = self.handles[stream] = self.handles.get(stream, -1) + 1
        opened = pb.Open(handle=handle, session_id="s", on_disconnect=pb.ON_DISCONNECT_PARK)
        self.streams[stream].say(open=opened)

    def step(self, stream: int) -> None:
        if stream in self.handles:
            length = self.rng.choice([1, 1, 5, 40])
            x = np.zeros((length, 2), "<f4")
            x[:, 0] = self.given = self.given + 1
            steps = pb.Steps(handle=[self.handles[stream]], length=[length], input=[x.tobytes()])
            self.streams[stream].say(steps=steps)

    def end(self, stream: int) -> None:
        self.handles.pop(stream, None)
        if self.rng.random() < 0.7:
            self.streams[stream].stream.half_close()
        else:
            self.streams[stream].stream.disconnect()
        client, task = self.streams[stream], self.listening[stream]
        self.connect()
        self.streams[stream], self.listening[stream] = self.streams.pop(), self.listening.pop()
        self.streams.append(client)
        self.listening.append(task)

    async def move(self) -> None:
        """What is on one version goes to the other."""
        versions = list(self.catalog)
        self.rng.shuffle(versions)
        with suppress(NotLoaded):
            await migrate(*versions)

    async def claim(self) -> None:
        """Another server has it for a moment."""
        model = self.catalog.find("")
        key = Key("tenant", model.layout.name, "s")
        with suppress(Refused):
            epoch = (await self.store.read(key)).epoch + 1
            meant = meaning(model.layout, model.version)
            claimed = await self.store.claim(key, Claim("other", epoch, meant, None, taken_up=True))
            assert claimed.checkpoint is not None
            at = claimed.checkpoint
            self.told.stands(at.position, float(np.frombuffer(at.state, "<f4")[0]))
            if self.rng.random() < 0.5:
                await asyncio.sleep(0.01)
            await self.store.release("other", [key], np.array([epoch]))

    async def turn(self) -> None:
        stream = self.rng.randrange(2)
        what = self.rng.choices(list(WHAT), list(WHAT.values()))[0]
        if what == "step":
            self.step(stream)
        elif what == "open":
            self.open(stream)
        elif what == "end":
            self.end(stream)
        elif what == "claim":
            await self.claim()
        elif what == "move":
            await self.move()
        elif what == "hang":
            self.store.may.clear()
        elif what == "go on":
            self.store.may.set()
        await asyncio.sleep(self.rng.choice([0, 0, 0.001, 0.02]))

    async def settle(self) -> None:
        """All that was asked is answered, and stands in the store."""
        self.store.may.set()
        async with asyncio.timeout(20):
            while self.catalog.check() or any(len(model.engine._queues) for model in self.catalog):
                await asyncio.sleep(0.01)
        for client in self.streams:
            client.stream.half_close()
        await asyncio.sleep(0.3)
        await self.claim()
        for client, task in zip(self.streams, self.listening, strict=True):
            client.stream.disconnect()
            task.cancel()
        for task in self.listening:
            with suppress(asyncio.CancelledError):
                await task


@pytest.mark.parametrize("seed", range(12))
async def test_nothing_void_is_told(tmp_path: Path, seed: int) -> None:
    store = Slow()
    checkpointer = Checkpointer(store, LIMITS, before_answer=True)
    versions = [accumulator(tmp_path / f"{k}.onnx", name="m", version=str(k)) for k in (1, 2)]
    async with serving_here(*versions, limits=LIMITS, checkpointer=checkpointer) as catalog:
        meanwhile = Meanwhile(catalog, store, seed)
        meanwhile.open(0)
        meanwhile.step(0)
        while not meanwhile.told.sums:
            await asyncio.sleep(0.001)
        for _ in range(TURNS):
            await meanwhile.turn()
        await meanwhile.settle()

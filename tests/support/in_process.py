"""A served model, and a client's stream of our own protocol, in this process and without a transport."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.backend.artifact import Artifact
from gatestream.server.config import Limits, ServerConfig, TickLimits
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.catalog import Catalog, ModelState, build
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.transport.native import ClientStream


@asynccontextmanager
async def serving_here(
    *paths: Path,
    limits: Limits,
    tick: TickLimits | None = None,
    straight: bool = False,
    checkpointer: Checkpointer | None = None,
) -> AsyncIterator[Catalog]:
    """A catalog of models whose step loops run; with a checkpointer, which runs too, sessions may be kept."""
    config = ServerConfig(
        artifacts=paths, provider="cpu", limits=limits, tick=tick or TickLimits(), straight_path=straight
    )
    catalog = Catalog(Accounts(limits), straight=straight)
    for path in paths:
        artifact = Artifact.load(path)
        number = catalog.reserve(artifact.spec.name, artifact.spec.version)
        model = build(artifact, number, config, catalog.accounts, checkpointer=checkpointer)
        if checkpointer is not None and model.lifecycle.kept is not None and model.lifecycle.residence is not None:
            checkpointer.add(model.lifecycle.kept, model.lifecycle.residence.reserve)
        model.state = ModelState.READY
        catalog.add(model)
    tasks = [asyncio.create_task(model.engine.run()) for model in catalog]
    if checkpointer is not None:
        await checkpointer.beat_once()
        tasks.append(asyncio.create_task(checkpointer.run()))
    try:
        yield catalog
        assert catalog.check() == []
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


class Client:
    """One stream."""

    def __init__(self, catalog: Catalog, limits: Limits):
        self.stream = ClientStream(catalog, limits, tenant="tenant")

    def say(self, **message: Any) -> None:
        self.stream.receive(pb.ClientMessage(**message).SerializeToString())

    async def hear(self) -> pb.ServerMessage:
        """The next message that answers one: what is durable is said whenever a round of the store has ended."""
        while True:
            item = await self.stream.send_queue.take()
            assert item is not None, "the stream has ended"
            self.stream.rows -= item[1]
            message = pb.ServerMessage.FromString(bytes(item[0]))
            if not message.HasField("durable"):
                return message

    async def open(self, handle: int, model: str = "", **fields: Any) -> pb.ServerMessage:
        self.say(open=pb.Open(handle=handle, model=model, **fields))
        return await self.hear()

    def send(self, handle: int, value: float, length: int = 1) -> None:
        """Steps of two numbers each."""
        x = np.full((length, 2), value, "<f4").tobytes()
        self.say(steps=pb.Steps(handle=[handle], length=[length], input=[x]))

    async def step(self, handle: int, value: float) -> float:
        """The first number of the answer to one step."""
        self.send(handle, value)
        answer = await self.hear()
        assert answer.HasField("results"), answer
        return float(np.frombuffer(answer.results.output[0], "<f4")[0])

"""The real client protocol, servers and store on a network of lists, driven at random.

A step answers with the sum of all inputs since the last Reset, exact in float32: an input that is missing, doubled or
misplaced shows in it, and in all after it.
"""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from gatestream.client.columns import Layout
from gatestream.client.errors import ConnectionLostError, DrainingError
from gatestream.client.models import Models, opens
from gatestream.client.protocol import batcher
from gatestream.client.protocol.log import Budget
from gatestream.client.protocol.queue import SessionQueue
from gatestream.client.protocol.requests import Chunk, Control, Kind
from gatestream.client.protocol.stream import Multiplexer
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.backend.artifact import Artifact
from gatestream.server.config import Limits, ServerConfig, TickLimits
from gatestream.server.core import residence
from gatestream.server.core.accounts import Accounts
from gatestream.server.core.catalog import Catalog, ModelState, build
from gatestream.server.core.checkpointer import Checkpointer
from gatestream.server.durability.memory import MemoryStore
from gatestream.server.errors import StoreUnavailable
from gatestream.server.transport.auth import Tenants
from gatestream.server.transport.connection import Streams
from gatestream.server.transport.native import ClientStream
from gatestream.server.transport.native_calls import Service
from tests.resume.setting_states import Setting

FOREVER = 1e9
# Fewer slots than a walk has sessions: some are parked, and restored on their next step.
LIMITS = Limits(sessions=4, held_sessions=12, sessions_per_stream=16, chunk_length=4, rows_per_stream=12)
WIRE_LIMITS = pb.Limits(
    sessions_per_stream=16,
    rows_per_stream=12,
    chunk_length=4,
    message_bytes=2**20,
    reply_bytes_per_stream=2**20,
    durability=pb.DURABILITY_BEHIND,
    store="shared",
)


class Unsteady:
    """A store that does not always answer, and may then have done what it was asked for.

    Args:
        store: the real one.
        rng: chooses.
    """

    def __init__(self, store: MemoryStore, rng: random.Random) -> None:
        self.store, self.rng, self.away = store, rng, False
        self.kind, self.shared = store.kind, True

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.store, name)

        async def asked(*args: Any) -> Any:
            await asyncio.sleep(0)
            if self.away and self.rng.random() < 0.5:
                raise StoreUnavailable("away")
            answer = await call(*args)
            if self.away:
                raise StoreUnavailable("away, and it was done")
            return answer

        return asked


@dataclass
class Server:
    """One process, until it is killed."""

    catalog: Catalog
    service: Service
    checkpointer: Checkpointer
    task: "asyncio.Task[None]"
    stops: bool = False

    @classmethod
    async def start(cls, path: Path, store: Unsteady, *, before_answer: bool) -> "Server":
        config = ServerConfig(artifacts=(path,), provider="cpu", limits=LIMITS, tick=TickLimits(rows=4, steps=2))
        catalog = Catalog(Accounts(LIMITS))
        artifact = Artifact.load(path)
        checkpointer = Checkpointer(store, LIMITS, before_answer=before_answer)
        number = catalog.reserve(artifact.spec.name, artifact.spec.version)
        model = build(artifact, number, config, catalog.accounts, threads=1, checkpointer=checkpointer)
        model.state = ModelState.READY
        catalog.add(model)
        kept, slots = model.lifecycle.kept, model.lifecycle.residence
        assert kept is not None
        assert slots is not None
        checkpointer.add(kept, slots.reserve)
        with suppress(StoreUnavailable):
            await checkpointer.beat_once()
        service = Service(catalog, config, Streams(catalog, LIMITS, Tenants(None)))
        return cls(catalog, service, checkpointer, asyncio.create_task(model.engine.run()))

    def retire(self, wires: list["Wire"]) -> None:
        """It was told to stop, and its connections are these."""
        self.stops = True
        self.catalog.drain()
        for wire in wires:
            wire.stream.going_away(30.0)

    def hand_over(self) -> None:
        """One that stops lets go of what is stored."""
        if self.stops:
            for model in self.catalog:
                kept = model.lifecycle.kept
                assert kept is not None
                kept.hand_over(kept.all())

    async def kill(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        for model in self.catalog:
            # The collector does not look into arrays: what holds itself by one would stay, some MiB for each server.
            model.engine.sessions.owner[:] = None


class Wire:
    """A connection: two lists of messages, and whether each end still knows of it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.stream = ClientStream(server.catalog, LIMITS, tenant="tenant")
        self.up: list[bytes] = []
        self.down: list[bytes] = []
        self.ended = False
        self._pump = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while (item := await self.stream.send_queue.take()) is not None:
            self.stream.rows -= item[1]
            self.down.append(bytes(item[0]))
        self.ended = True

    def lose(self) -> None:
        """The server sees the end."""
        self.up.clear()
        self.stream.disconnect()
        self._pump.cancel()
        self.ended = True

    def drop(self) -> None:
        """Its process is gone."""
        self.up.clear()
        self._pump.cancel()
        self.ended = True


@dataclass
class Session:
    """What a caller asks of a session, and what must come."""

    queue: SessionQueue
    opening: Control
    totals: npt.NDArray[np.float32]
    asked: list[tuple[Chunk, list[float]]] = field(default_factory=list)
    setting: Setting | None = None


class World:
    """A client, two servers, a store, and what goes wrong among them.

    Args:
        path: of the accumulator.
        seed: of all choices.
        fences: an owner counts as silent always, and is fenced; else it hands over.
    """

    def __init__(self, path: Path, seed: int, *, fences: bool) -> None:
        self.path, self.rng = path, random.Random(seed)
        self.store = Unsteady(MemoryStore(0.0 if fences else FOREVER), self.rng)
        self.servers: list[Server] = []
        self.wire: Wire | None = None
        self.old: list[Wire] = []
        # Of three or four messages, where it is small: then the client waits for checkpoints.
        self.client = Multiplexer(WIRE_LIMITS, retry=True, budget=Budget(self.rng.choice((2**20, 2000))))
        self.before_answer = self.rng.random() < 0.3
        self.sessions: list[Session] = []
        self.inputs = 0
        self.seen: Counter[str] = Counter()
        # A walk is too short for sessions to wait until those that use their slots have to give them up.
        self.patience = patch.object(residence, "_PATIENCE", self.rng.choice((0.0, 0.01)))
        self.trace: list[str] = []

    async def start(self, sessions: int) -> None:
        self.patience.start()
        self.servers = [await self._start() for _ in range(2)]
        self.spec = Artifact.load(self.path).spec
        models = Models(pb.DescribeResponse(limits=WIRE_LIMITS, models=[pb.ServedModel(spec=self.spec)]))
        self.layout: Layout = models.layout(self.spec, outputs=True, gates=False)
        self.wire = Wire(self.servers[0])
        for k in range(sessions):
            members = 1 + k % 3
            queue, work = self.client.open(
                self.layout, opens(self.spec, [""] * members, "create", outputs=True, gates=False)
            )
            self.client.add(queue, work)
            self.sessions.append(Session(queue, work, np.zeros(members, np.float32)))

    async def _start(self) -> Server:
        return await Server.start(self.path, self.store, before_answer=self.before_answer)

    async def stop(self) -> None:
        self.patience.stop()
        for session in self.sessions:
            if session.setting is not None:
                session.setting.leave()
        for wire in [*self.old, *([self.wire] if self.wire else [])]:
            wire.drop()
        for server in self.servers:
            await server.kill()

    # ---- What may happen ---------------------------------------------------------------------------

    def ask(self) -> None:
        """A caller asks for steps, or for a Reset."""
        session = self.rng.choice(self.sessions)
        if sum(not chunk.done for chunk, _ in session.asked) > 3 or session.setting is not None:
            # What is asked of a state that nobody knows to be set comes before it is set again.
            return
        queue = session.queue
        if self.rng.random() < 0.15:
            self.client.add(queue, Control(kind=Kind.RESET, members=queue.members))
            session.totals[:] = 0
            self.seen["resets"] += 1
            return
        some = sorted(self.rng.sample(queue.members.tolist(), self.rng.randint(1, len(queue.members))))
        lengths = np.array([self.rng.randint(1, 6) for _ in some])
        length = int(lengths.max())
        real = np.arange(length) < lengths[:, None]
        xs = np.zeros(real.shape, np.float32)
        xs[real] = np.arange(self.inputs + 1, self.inputs + 1 + lengths.sum()) % 97 + 1
        self.inputs += int(lengths.sum())
        ys = session.totals[some, None] + np.cumsum(xs, axis=1)
        session.totals[some] = ys[:, -1]
        chunk = Chunk(members=np.array(some), columns=[np.repeat(xs[:, :, None], 2, axis=2)], length=length)
        if (lengths != length).any():
            chunk.lengths = lengths
        session.asked.append((chunk, np.where(real, ys, 0).tolist()))
        self.client.add(queue, chunk)
        self.seen["steps"] += int(lengths.sum())

    def put(self) -> None:
        """A caller asks for a session's state to be set."""
        session = self.rng.choice(self.sessions)
        if len(session.queue.members) == 1 and session.setting is None:
            total = self.rng.randint(1, 1000)
            session.totals[:] = total
            session.setting = Setting(self, session, float(total), self.rng.randint(0, 50))
            self.seen["states set"] += 1

    def call(self) -> None:
        """What callers ask for beside the stream goes on."""
        for session in self.sessions:
            if session.setting is not None and session.setting.go_on():
                session.setting = None

    def send(self) -> None:
        """What the client has to say leaves, and one message arrives."""
        if self.wire is None:
            return
        if self.wire.ended:
            if not self.wire.down:
                self.part()
            return
        self.wire.up += self.client.take()
        if self.wire.up:
            self.wire.stream.receive(self.wire.up.pop(0))

    def hear(self) -> None:
        """One message of the server arrives."""
        if self.wire is not None and self.wire.down:
            try:
                self.client.receive(self.wire.down.pop(0))
            except DrainingError:
                self.part()

    def late(self) -> None:
        """Something arrives at a server on a connection that its client has left, or its end does."""
        if not self.old:
            return
        wire = self.rng.choice(self.old)
        if wire.up and self.rng.random() < 0.6:
            wire.stream.receive(wire.up.pop(0))
        else:
            wire.lose()
            self.old.remove(wire)

    def part(self) -> None:
        """The connection is lost, seen by the client first; what it sent may still arrive."""
        wire, self.wire = self.wire, None
        if wire is None:
            return
        self.client.suspend(lambda: ConnectionLostError("lost"), 0.0)
        if not wire.ended:
            self.old.append(wire)
        self.seen["connections lost"] += 1

    def connect(self) -> None:
        """The client connects to either server."""
        if self.wire is None:
            self.wire = Wire(self.rng.choice(self.servers))
            self.client.reattach(WIRE_LIMITS)

    def retire(self) -> None:
        """A server is told to stop, while the other one goes on; it ends when it is killed."""
        k = self.rng.randrange(2)
        # Its caller hears of a session that was never open, and asks another server.
        if all(each.opening.done for each in self.sessions) and not any(server.stops for server in self.servers):
            wires = [*self.old, *([self.wire] if self.wire else [])]
            self.servers[k].retire([wire for wire in wires if wire.server is self.servers[k] and not wire.ended])
            self.seen["servers told to stop"] += 1

    async def kill(self) -> None:
        """A server's process ends and begins anew."""
        await self._kill(self.rng.randrange(2))

    async def _kill(self, k: int) -> None:
        gone = self.servers[k]
        for wire in [*self.old, *([self.wire] if self.wire else [])]:
            if wire.server is gone:
                wire.drop()
        self.old = [wire for wire in self.old if wire.server is not gone]
        await gone.kill()
        # It is found dead at once.
        await self.store.store.close_store(gone.checkpointer.owner)
        self.servers[k] = await self._start()
        self.seen["kills"] += 1

    async def round(self) -> None:
        """A server writes its checkpoints."""
        server = self.rng.choice(self.servers)
        checkpointer = server.checkpointer
        server.hand_over()
        # By the clock hardly any would: a walk takes less than a second.
        if self.rng.random() < 0.8:
            checkpointer.tell_soon()
        with suppress(StoreUnavailable):
            await asyncio.wait_for(checkpointer.round(), 5)
            self.seen["checkpoint rounds"] += 1

    async def beat(self) -> None:
        """A server hears what others want of it."""
        with suppress(StoreUnavailable):
            await self.rng.choice(self.servers).checkpointer.beat_once()

    def away(self) -> None:
        """The store stops answering, or answers again."""
        self.store.away = not self.store.away
        self.seen["times that the store was away"] += self.store.away

    def retry(self) -> None:
        """What was refused for a while is asked again."""
        if self.wire is not None:
            self.client.retry()
            for session in self.sessions:
                self.client.again(session.queue)

    # ---- Driving -----------------------------------------------------------------------------------

    async def do(self, name: str) -> None:
        """One thing happens, and what follows from it at once."""
        self.trace.append(name)
        done = getattr(self, name)()
        if done is not None:
            await done
        for _ in range(8):
            await asyncio.sleep(0)
        self.check()

    def check(self) -> None:
        """Every answer is right, and came once."""
        for session in self.sessions:
            while session.asked and session.asked[0][0].done:
                chunk, right = session.asked.pop(0)
                if chunk.error is not None:
                    raise AssertionError(f"failed: {chunk.error!r}")
                got = chunk.results()[0][:, :, 0].tolist()
                assert got == right, f"{got} came, and {right} is right"
                steps = chunk.length * len(chunk.members) if chunk.lengths is None else int(chunk.lengths.sum())
                self.seen["answered"] += steps

    async def settle(self) -> None:
        """All goes well until everything is answered."""
        self.store.away = False
        for k, server in enumerate(self.servers):
            if server.stops:
                await self._kill(k)
        for _ in range(3000):
            if not any(session.asked or session.setting for session in self.sessions):
                return
            for name in ("connect", "send", "hear", "late", "retry", "call"):
                await self.do(name)
            for server in self.servers:
                with suppress(StoreUnavailable):
                    await server.checkpointer.beat_once()
                    await asyncio.wait_for(server.checkpointer.round(), 5)
            await asyncio.sleep(0.001)
        raise AssertionError(f"not answered: {[len(each.asked) for each in self.sessions]}")


CALM = (
    "ask",
    "send",
    "send",
    "send",
    "hear",
    "hear",
    "hear",
    "round",
    "beat",
    "connect",
    "retry",
    "late",
    "put",
    "call",
    "call",
)
FAULTS = ("part", "kill", "away", "retire")


async def walk(path: Path, seed: int, steps: int = 300) -> Counter[str]:
    """Let all happen at random, then all be well; what was seen."""
    # Messages on their way beside others, with as few sessions as there are here.
    with patch.object(batcher, "MANY", 2 if seed % 2 else batcher.MANY):
        return await _walk(path, seed, steps)


async def _walk(path: Path, seed: int, steps: int) -> Counter[str]:
    rng = random.Random(seed)
    world = World(path, seed, fences=rng.random() < 0.3)
    faulty = rng.choice((0.01, 0.03, 0.1))
    await world.start(rng.randint(1, 4))
    try:
        for _ in range(steps):
            await world.do(rng.choice(FAULTS if rng.random() < faulty else CALM))
        await world.settle()
    finally:
        await world.stop()
    return world.seen

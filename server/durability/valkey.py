"""The store in a Valkey or Redis server, which replicas on any machines share."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gatestream.server.arrays import Ints
from gatestream.server.durability import rules
from gatestream.server.durability import valkey_scripts as scripts
from gatestream.server.durability.checkpoints import (
    CLOSED_SECONDS,
    SILENCE_SECONDS,
    Checkpoint,
    Claim,
    Claimed,
    Key,
    Meaning,
    Owned,
    Stored,
    Writes,
    Written,
)
from gatestream.server.durability.rules import Record
from gatestream.server.durability.sealing import seal, seals
from gatestream.server.errors import StoreUnavailable

_log = structlog.get_logger(__name__)

# Sessions, and bytes of their states, in one script: it holds this loop, and the server, for less than 2 ms.
_PIECE: Final = 200
_PIECE_BYTES: Final = 2**20
_CONNECTIONS: Final = 16
# Of a page that is filtered.
_LOOKED_AT: Final = 1000
# Times that a session may change between its being read and its being claimed.
_TRIES: Final = 20


class ValkeyStore:
    """Checkpoints in a server of the Redis protocol, by its scripts. As `Store`.

    Args:
        pool: of connections to the server.
        shown: what the server is called in the log, without secrets.
        silence: seconds after its last beat at which an owner counts as dead.
    """

    kind = "valkey"
    shared = True

    def __init__(self, pool: ConnectionPool, shown: str, silence: float = SILENCE_SECONDS):
        self._server = Redis(connection_pool=pool)
        self._shown = shown
        self._silence = silence
        # Its connections are made when they are needed, and no call waits for one against the clock.
        self._room = asyncio.Semaphore(_CONNECTIONS)
        self._reason: str | None = None
        self._failed = 0.0
        register = self._server.register_script
        names = ("READ", "KEEP", "WANT", "WRITE", "RELEASE", "END", "BEAT", "DEAD", "PRUNE")
        self._scripts = {name: register(getattr(scripts, name)) for name in names}

    async def claim(self, key: Key, claim: Claim) -> Claimed:
        """As `Store`."""
        for _ in range(_TRIES):
            revision, record, living = await self._read(key)
            try:
                after, answer = rules.claimed(key, record, claim, living.__contains__, time.time())
            except Owned:
                if await self._run("WANT", [_key(key)], [revision, _member(key)]):
                    raise
                continue
            if await self._keep(key, revision, after):
                return answer
        raise self._unavailable("the session is changed all the time")

    async def write(self, writes: Writes) -> Written:
        """As `Store`."""
        n = len(writes.keys)
        result = Written(np.zeros(n, bool), np.zeros(n, np.int64), np.zeros(n, bool))
        acknowledged = np.minimum(writes.acknowledged, writes.sequences)
        columns = (writes.epochs, writes.sequences, writes.positions, acknowledged)
        for piece in _pieces(n, min(_PIECE, _PIECE_BYTES // max(1, writes.states.shape[1]))):
            keys = writes.keys[piece]
            numbers = np.stack([*(column[piece] for column in columns), seals(keys, writes, piece)], 1).astype("<i8")
            arguments = [writes.owner, time.time(), numbers.tobytes(), writes.states[piece].tobytes()]
            rows = await self._run("WRITE", [_key(key) for key in keys], arguments)
            durable = np.array(rows[0::2], np.int64)
            result.taken[piece] = durable >= 0
            result.durable[piece] = np.maximum(durable, 0)
            result.wanted[piece] = np.array(rows[1::2], np.int64) != 0
        return result

    async def replace(self, key: Key, owner: str, epoch: int, checkpoint: Checkpoint) -> bool:
        """As `Store`."""
        for _ in range(_TRIES):
            revision, record, _ = await self._read(key, check=False)
            if record is None or not record.checkpoints or record[:2] != (epoch, owner):
                return False
            if await self._keep(key, revision, record._replace(checkpoints=(checkpoint,), written=time.time())):
                return True
        raise self._unavailable("the session is changed all the time")

    async def release(self, owner: str, keys: Sequence[Key], epochs: Ints) -> None:
        """As `Store`."""
        for piece in _pieces(len(keys)):
            await self._run("RELEASE", [_key(key) for key in keys[piece]], [owner, *_named(keys[piece], epochs[piece])])

    async def close(self, keys: Sequence[Key], epochs: Ints) -> npt.NDArray[np.bool_]:
        """As `Store`."""
        closed = np.zeros(len(keys), bool)
        for piece in _pieces(len(keys)):
            closed[piece] = np.array(await self._end(keys[piece], _named(keys[piece], epochs[piece])), bool)
        return closed

    async def read(self, key: Key) -> Stored:
        """As `Store`."""
        _, record, living = await self._read(key)
        if record is None or not record.checkpoints:
            raise rules.unknown(key)
        epoch, owner, meaning, checkpoints, written, _ = record
        return Stored(key, epoch, owner, meaning, checkpoints, record.room, written, bool(living))

    async def put(self, stored: Stored) -> None:
        """As `Store`."""
        for _ in range(_TRIES):
            revision, record, _ = await self._read(stored.key, check=False)
            if await self._keep(stored.key, revision, rules.put(stored.key, record, stored, time.time())):
                return
        raise self._unavailable("the session is changed all the time")

    async def page(self, tenant: str | None, model: str | None, behind: Key | None, size: int) -> Sequence[Stored]:
        """As `Store`."""
        found: list[Stored] = []
        low = b"-" if tenant is None else b"[" + f"{tenant}\0".encode()
        high = b"+" if tenant is None else b"(" + f"{tenant}\1".encode()
        if behind is not None:
            low = max(low, b"(" + _member(behind), key=lambda end: end[1:])
        while len(found) < size:
            index = f"{scripts.PREFIX}index"
            members: list[bytes] = await self._ask(self._server.zrangebylex, index, low, high, 0, _LOOKED_AT)
            keys = [Key(*member.decode().split("\0")) for member in members]
            for key in keys:
                if model in (None, key.model) and len(found) < size:
                    _, record, _ = await self._read(key, check=False)
                    if record is not None and record.checkpoints:
                        found.append(
                            Stored(key, record.epoch, record.owner, record.meaning, (), record.room, record.written)
                        )
            if len(members) < _LOOKED_AT:
                break
            low = b"(" + members[-1]
        return found

    async def delete(self, keys: Sequence[Key]) -> int:
        """As `Store`."""
        unique = list(dict.fromkeys(keys))
        gone = 0
        for piece in _pieces(len(unique)):
            rows = [item for key in unique[piece] for item in ("", _member(key))]
            gone += sum(await self._end(unique[piece], rows))
        return gone

    async def prune(self, before: float) -> int:
        """As `Store`."""
        for owner in await self._run("DEAD", [], [CLOSED_SECONDS]):
            await self._let_go(owner.decode())
        gone = 0
        while found := await self._run("PRUNE", [], ["parked", before, _PIECE]):
            gone += found
        closed_before = max(before, time.time() - CLOSED_SECONDS)
        while await self._run("PRUNE", [], ["closed", closed_before, _PIECE]):
            pass
        return gone

    async def usage(self, tenant: str) -> tuple[int, int]:
        """As `Store`."""
        found = [
            await self._ask(self._server.hget, f"{scripts.PREFIX}{what}", tenant) for what in ("sessions", "bytes")
        ]
        return int(found[0] or 0), int(found[1] or 0)

    async def beat(self, owner: str) -> Sequence[Key]:
        """As `Store`."""
        return [Key(*member.decode().split("\0")) for member in await self._run("BEAT", [], [owner, _LOOKED_AT])]

    async def close_store(self, owner: str) -> None:
        """As `Store`."""
        try:
            await self._let_go(owner)
        except StoreUnavailable:
            # The log says so. The owner will be silent, and what it had is to be had then.
            pass
        finally:
            await self._server.aclose(close_connection_pool=True)

    async def _let_go(self, owner: str) -> None:
        """Have an owner have nothing, and forget it."""
        owned = f"{scripts.PREFIX}owned:{owner}"
        while members := await self._ask(self._server.srandmember, owned, _PIECE):
            keys = [scripts.PREFIX.encode() + b"s:" + member for member in members]
            await self._run("RELEASE", keys, [owner, *(item for member in members for item in ("", member))])
        await self._ask(self._server.zrem, f"{scripts.PREFIX}beats", owner)
        await self._ask(self._server.srem, f"{scripts.PREFIX}owners", owner)

    async def _end(self, keys: Sequence[Key], rows: list[Any]) -> list[int]:
        found: list[int] = await self._run(
            "END", [_key(key) for key in keys], [time.time(), int(2 * CLOSED_SECONDS), *rows]
        )
        return found

    async def _read(self, key: Key, check: bool = True) -> tuple[bytes, Record | None, Sequence[str]]:
        """Its revision, what is known of it, and its owner where that one lives."""
        flat, lives = await self._run("READ", [_key(key)], [self._silence])
        if not flat:
            return b"", None, ()
        has = dict(zip(flat[0::2], flat[1::2], strict=True))
        found = []
        for slot in (b"0", b"1"):
            if slot not in has:
                continue
            sequence = int(has[slot])
            position, checksum, state = (has.get(name + slot, b"") for name in (b"p", b"c", b"s"))
            item = Checkpoint(sequence, int(position or 0), state)
            if check and str(seal(key, item)).encode() != checksum:
                raise rules.damaged(key, f"at sequence {sequence} is damaged: its checksum is another")
            found.append(item)
        found.sort(key=lambda item: item.sequence)
        meaning = Meaning(*json.loads(has[b"meaning"]))
        record = Record(
            int(has[b"epoch"]),
            has[b"owner"].decode(),
            meaning,
            tuple(found),
            float(has[b"written"]),
            has[b"wanted"] == b"1",
        )
        return has[b"revision"], record, (record.owner,) if lives else ()

    async def _keep(self, key: Key, revision: bytes, after: Record) -> bool:
        """Have the server know this of a session, unless it has changed since it was read; whether it had not."""
        arguments: list[Any] = [revision, _member(key), after.owner, int(after.wanted), after.room, after.written]
        arguments += [after.epoch, json.dumps(after.meaning)]
        for item in after.checkpoints:
            arguments += [item.sequence, item.position, seal(key, item), item.state]
        return bool(await self._run("KEEP", [_key(key)], arguments))

    async def _run(self, name: str, keys: Sequence[bytes], arguments: Sequence[Any]) -> Any:
        answer = await self._ask(self._scripts[name], keys=keys, args=arguments)
        # What only reads goes on where there is no room, and says nothing of that.
        if self._reason is not None and name != "READ":
            _log.info("the store is there again", server=self._shown)
            self._reason = None
        return answer

    async def _ask(self, command: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        began = time.monotonic()
        async with self._room:
            if self._failed > began:
                # It would take its time to fail too.
                raise self._unavailable(self._reason or "it did not answer")
            try:
                return await command(*arguments, **named)
            except (RedisError, OSError, TimeoutError) as error:
                if isinstance(error, OSError | TimeoutError | RedisConnectionError | RedisTimeoutError):
                    self._failed = time.monotonic()
                raise self._unavailable(f"{type(error).__name__}: {error}") from error

    def _unavailable(self, reason: str) -> StoreUnavailable:
        if reason != self._reason:
            _log.error("the store cannot be used", server=self._shown, reason=reason)
            self._reason = reason
        return StoreUnavailable("the store of sessions does not answer, or takes nothing more", retry_after=1.0)


def _pieces(n: int, size: int = _PIECE) -> Iterator[slice]:
    size = max(1, size)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _member(key: Key) -> bytes:
    return "\0".join(key).encode()


def _key(key: Key) -> bytes:
    return scripts.PREFIX.encode() + b"s:" + _member(key)


def _named(keys: Sequence[Key], epochs: Ints) -> list[Any]:
    return [item for key, epoch in zip(keys, epochs.tolist(), strict=True) for item in (epoch, _member(key))]

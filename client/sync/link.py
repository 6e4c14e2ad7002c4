"""One `Stream` of the blocking client: a thread that reads, and callers that sleep until they are answered."""

import contextlib
import copy
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import grpc

from gatestream.client.channel import Settings, from_stream
from gatestream.client.columns import Layout
from gatestream.client.conversation import Conversation
from gatestream.client.errors import DeadlineExceededError, GatestreamError, ProtocolError
from gatestream.client.lane import Lane
from gatestream.client.patience import waits
from gatestream.client.work import Chunk, Control, Kind
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1 import gatestream_pb2_grpc as pb_grpc

_SECONDS_TO_PART = 2.0


class Link:
    """Safe to use from many threads."""

    def __init__(self, stub: pb_grpc.GatestreamStub, settings: Settings, limits: pb.Limits) -> None:
        self._address = settings.address
        self._conversation = Conversation(limits, retry=settings.retry)
        self._lock = threading.Lock()
        # gRPC's own thread takes from it; None ends the client's half.
        self._outbox: queue.SimpleQueue[pb.ClientMessage | None] = queue.SimpleQueue()
        self._call = stub.Stream(iter(self._outbox.get, None), metadata=settings.metadata)
        self._reader = threading.Thread(target=self._read, name=f"gatestream {settings.address}", daemon=True)
        self._reader.start()

    @property
    def usable(self) -> bool:
        """Whether new sessions can be opened here."""
        return self._conversation.usable

    @property
    def lost(self) -> bool:
        """Whether the stream is gone."""
        return self._conversation.lost

    def open(self, layout: Layout, opens: Sequence[pb.Open], timeout: float) -> Lane:
        """Open sessions that step together.

        Raises:
            GatestreamError: none is open then.
        """
        with self._lock:
            lane, work = self._conversation.open(layout, opens)
        self.ask(lane, work, timeout)
        return lane

    def ask(self, lane: Lane, work: Chunk | Control, timeout: float) -> None:
        """Have the work done.

        Raises:
            GatestreamError: it was not.
        """
        gate = threading.Lock()
        gate.acquire()

        def wake() -> None:
            if gate.locked():
                gate.release()

        work.wake = wake
        turns = waits(self._conversation, lane, work, timeout, time.monotonic)
        try:
            while True:
                with self._lock:
                    seconds = next(turns, None)
                    self._flush()
                if seconds is None:
                    break
                gate.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))
        except BaseException:
            # Ctrl-C: nobody waits for the answer any more.
            self._leave(lane, work)
            raise
        if work.error is not None:
            raise work.error

    def close_later(self, lane: Lane) -> None:
        """Have the sessions closed, without waiting for it."""
        with self._lock:
            self._conversation.add(lane, Control(kind=Kind.CLOSE, members=lane.members))
            self._flush()

    @contextlib.contextmanager
    def pause(self, lane: Lane, timeout: float) -> Iterator[None]:
        """Hold the lane still, once all that was asked of it before is answered."""
        self.ask(lane, Control(kind=Kind.PAUSE, members=lane.members), timeout)
        try:
            yield
        finally:
            with self._lock:
                self._conversation.resume(lane)
                self._flush()

    def close(self) -> None:
        """End the stream. The server closes its sessions when it has answered what is on its way."""
        self._outbox.put(None)
        self._reader.join(_SECONDS_TO_PART)
        self._call.cancel()
        self._reader.join()

    def _leave(self, lane: Lane, work: Chunk | Control) -> None:
        with self._lock:
            self._conversation.withdraw(lane, work, DeadlineExceededError("the caller waits no longer"))
            self._flush()

    def _flush(self) -> None:
        for message in self._conversation.take():
            self._outbox.put(message)
        if self._conversation.over:
            self._outbox.put(None)

    def _read(self) -> None:
        reason: Callable[[], GatestreamError] = from_stream(None, self._address)
        try:
            for message in self._call:
                with self._lock:
                    self._conversation.receive(message)
                    self._flush()
        except grpc.RpcError as error:
            reason = from_stream(error, self._address)
        except GatestreamError as error:
            reason = partial(copy.copy, error)
            self._call.cancel()
        except Exception as error:
            reason = partial(ProtocolError, f"this client failed: {error!r}")
            self._call.cancel()
            raise
        finally:
            with self._lock:
                self._conversation.end(reason)
            self._outbox.put(None)

"""What the model of a session's protocol knows: clients, streams, servers, and the store. Plain tuples, to be hashed.

A state is the tuple of the inputs that led to it, so that a step that is lost, doubled or misplaced shows in it.
"""

from typing import Any, NamedTuple

State = tuple[int, ...]
Message = tuple[Any, ...]
NAMES = "AB"


class Client(NamedTuple):
    """A client, with the log of what it asked for.

    Attributes:
        session: that it uses.
        taken: entries of its script that are answered.
        base: sequence at which its first entry stands; None: it has never heard where the session stands.
        origin: position and state there.
        epoch: the highest that it has seen or proposed.
        stream: that it reads; 0: none.
        opened: it has heard `Opened` on it.
        sent: the next entry to send on it.
        heard: the next entry to be answered on it.
        forgotten: entries that it could not send again.
        asked: a SetState may have been carried out, without that it heard so.
        over: it was told that the session is another client's.
        former: the stream before; read only where rule 8 is off.
    """

    session: int
    taken: int = 0
    base: int | None = None
    origin: tuple[int, State] = (0, ())
    epoch: int = 0
    stream: int = 0
    opened: bool = False
    sent: int = 0
    heard: int = 0
    forgotten: int = 0
    asked: bool = False
    over: bool = False
    former: int = 0


class Stream(NamedTuple):
    """A connection: what is on its way to the server and back, and whether each end still knows of it."""

    number: int
    server: int
    client: int
    up: tuple[Message, ...] = ()
    down: tuple[Message, ...] = ()
    held_by_client: bool = True
    held_by_server: bool = True


class Slot(NamedTuple):
    """A session as its server has it; `state` is None while it is evicted.

    Attributes:
        epoch: at which it was claimed.
        sequence: steps, resets and states set.
        position: steps.
        state: see above.
        acknowledged: by its client.
        stream: that holds it; 0: none.
        writing: a write of it is under way.
        written: sequence of the latest write that was confirmed; -1: none.
        stored: sequences of its checkpoints, as far as the server knows.
        held: answers that wait for a write: the sequence that it must have, and the answer.
        setting: of a SetState that the store has not answered, its value and stream; all else waits for it.
    """

    epoch: int
    sequence: int
    position: int
    state: State | None
    acknowledged: int
    stream: int
    writing: bool = False
    written: int = -1
    stored: tuple[int, ...] = ()
    held: tuple[tuple[int, Message], ...] = ()
    setting: tuple[int, int] | None = None


class Checkpoint(NamedTuple):
    """A state that is stored."""

    sequence: int
    position: int
    state: State


class Record(NamedTuple):
    """What the store has of a session: without checkpoints it is closed.

    Attributes:
        epoch: the latest.
        owner: server that has it and is heard of; -1: none.
        wanted: another asks for it.
        checkpoints: in order of their sequences.
    """

    epoch: int
    owner: int
    checkpoints: tuple[Checkpoint, ...]
    wanted: bool = False


class Write(NamedTuple):
    """A checkpoint on its way to the store, or, with a report, back: taken, refused or unknown.

    Attributes:
        durable, tip: sequences of the anchor and of the tip, in the report.
    """

    server: int
    session: int
    epoch: int
    checkpoint: Checkpoint
    acknowledged: int
    report: str = ""
    durable: int = 0
    tip: int = 0


class World(NamedTuple):
    """Everything.

    Attributes:
        clients: see `Client`.
        streams: in order of their numbers.
        slots: by server and session, two sessions at most.
        writes: in order of their fields, since any may arrive first.
        records: by session; None: it never was.
        reachable: the store answers.
        intact: nothing went wrong so far.
        faults: that may still happen.
        evictions: and slots given up.
    """

    clients: tuple[Client, ...]
    streams: tuple[Stream, ...]
    slots: tuple[Slot | None, ...]
    writes: tuple[Write, ...]
    records: tuple[Record | None, ...]
    reachable: bool
    intact: bool
    faults: int
    evictions: int

    def slot(self, server: int, session: int) -> Slot | None:
        """The session as the server has it."""
        return self.slots[2 * server + session]

    def with_slot(self, server: int, session: int, slot: Slot | None) -> "World":
        """The server has the session so."""
        k = 2 * server + session
        return self._replace(slots=(*self.slots[:k], slot, *self.slots[k + 1 :]))

    def with_record(self, session: int, record: Record | None) -> "World":
        """The store has the session so."""
        return self._replace(records=(*self.records[:session], record, *self.records[session + 1 :]))

    def with_client(self, k: int, **changes: Any) -> "World":
        """The client has changed."""
        return self._replace(clients=(*self.clients[:k], self.clients[k]._replace(**changes), *self.clients[k + 1 :]))

    def stream(self, number: int) -> Stream | None:
        """The stream of that number, while one end still knows of it."""
        for each in self.streams:
            if each.number == number:
                return each
        return None

    def with_stream(self, stream: Stream) -> "World":
        """The stream has changed."""
        return self._replace(streams=tuple(stream if each.number == stream.number else each for each in self.streams))

    def without_stream(self, number: int) -> "World":
        """Neither end knows of it any more."""
        return self._replace(streams=tuple(each for each in self.streams if each.number != number))

    def tell(self, number: int, message: Message) -> "World":
        """The server says something on a stream, if its client still reads it."""
        stream = self.stream(number)
        if stream is None or not stream.held_by_client or not stream.held_by_server:
            return self
        return self.with_stream(stream._replace(down=(*stream.down, message)))

    def detached(self, number: int) -> "World":
        """The server knows of the stream no more; its sessions are nobody's."""
        slots = tuple(each._replace(stream=0) if each and each.stream == number else each for each in self.slots)
        return self._replace(slots=slots)

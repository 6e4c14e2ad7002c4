"""The servers of the model: they claim, step, write behind, hand over, evict and restore."""

from collections.abc import Iterator

from tests.resume import store
from tests.resume.rules import Setting
from tests.resume.world import NAMES, Checkpoint, Message, Record, Slot, Stream, World, Write

Step = tuple[str, World]


class Servers:
    """What the servers and the store may do."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def steps(self, w: World) -> Iterator[Step]:
        """All that a server or the store may do."""
        for stream in w.streams:
            if stream.held_by_server and stream.up:
                yield from self._take(w, stream)
            if stream.held_by_server and not stream.held_by_client and not (stream.down and not stream.up):
                yield f"{NAMES[stream.server]} sees stream {stream.number} end", self._ended(w, stream)
        for server in (0, 1):
            for session in (0, 1):
                yield from self._behind(w, server, session)
        for write in w.writes:
            yield from self._stored(w, write)

    def _ended(self, w: World, stream: Stream) -> World:
        if stream.down:
            return w.with_stream(stream._replace(held_by_server=False, up=())).detached(stream.number)
        return w.without_stream(stream.number).detached(stream.number)

    # ---- What comes -----------------------------------------------------------------------------

    def _take(self, w: World, stream: Stream) -> Iterator[Step]:
        message = stream.up[0]
        taken = w.with_stream(stream._replace(up=stream.up[1:]))
        label = f"{NAMES[stream.server]} takes {message}"
        slot = w.slot(stream.server, w.clients[stream.client].session)
        if slot is not None and slot.setting is not None:
            return
        if message[0] == "Open":
            for after in self._open(w, taken, stream, message):
                yield label, after
            return
        session = w.clients[stream.client].session
        unary = message[0] in ("SetState", "Fork")
        if slot is None or (slot.stream != stream.number and not unary and self.setting.holds("handle")):
            yield label, taken.tell(stream.number, ("Closed", "gone"))
            return
        if slot.state is None:
            for restored, slot_now in self._restored(w, taken, stream, session, slot):
                if slot_now is None:
                    yield f"{label}, and restores", restored
                else:
                    yield f"{NAMES[stream.server]} restores", restored
            return
        act = {
            "Steps": self._step,
            "Reset": self._reset,
            "SetState": self._set,
            "Fork": self._fork,
            "Close": self._close,
        }
        for after in act[message[0]](w, taken, stream, slot, message):
            yield label, after

    def _open(self, w: World, taken: World, stream: Stream, message: Message) -> Iterator[World]:
        _, epoch, lacks, mode = message
        server, session = stream.server, w.clients[stream.client].session
        record, slot = w.records[session], w.slot(server, session)
        claimed = store.claim(self.setting, record, slot, server, epoch, lacks, mode)
        unavailable = taken.tell(stream.number, ("Refused", "unavailable", 0))
        if claimed.refusal:
            if w.reachable:
                yield taken.tell(stream.number, ("Refused", claimed.refusal, claimed.epoch))
            else:
                yield unavailable
            return
        if record and record.owner not in (-1, server) and self.setting.holds("handover"):
            if not w.reachable:
                yield unavailable
            elif not record.wanted:
                yield w.with_record(session, record._replace(wanted=True))
            return
        assert claimed.slot is not None
        after = taken.with_record(session, claimed.record)
        if not w.reachable:
            yield unavailable
            yield after.tell(stream.number, ("Refused", "unavailable", 0))
            return
        if slot is not None and slot.stream != stream.number:
            after = after.tell(slot.stream, ("Closed", "taken over"))
        now = claimed.slot._replace(stream=stream.number)
        after = after.with_slot(server, session, now)
        yield after.tell(
            stream.number, ("Opened", claimed.epoch, now.sequence, claimed.durable, now.position, now.state)
        )

    def _restored(
        self, w: World, taken: World, stream: Stream, session: int, slot: Slot
    ) -> Iterator[tuple[World, Slot | None]]:
        record = w.records[session]
        if not w.reachable:
            yield taken.tell(stream.number, ("Refused", "unavailable", 0)), None
            return
        if record is None or record.epoch != slot.epoch:
            gone = taken.with_slot(stream.server, session, None)
            yield gone.tell(stream.number, ("Closed", "fenced")), None
            return
        found = [each for each in record.checkpoints if each.sequence == slot.sequence]
        if not found and not self.setting.holds("exact slot"):
            found = [record.checkpoints[-1]]
        if not found:
            gone = taken.with_slot(stream.server, session, None)
            yield gone.tell(stream.number, ("Closed", "lost")), None
            return
        restored = slot._replace(state=found[0].state)
        yield w.with_slot(stream.server, session, restored), restored

    def _step(self, w: World, taken: World, stream: Stream, slot: Slot, message: Message) -> Iterator[World]:
        _, position, values, lacks = message
        if position != slot.position and self.setting.holds("first"):
            yield taken.tell(stream.number, ("Refused", "position mismatch", 0))
            return
        assert slot.state is not None
        lacks = slot.sequence if lacks is None else lacks
        now = slot._replace(
            sequence=slot.sequence + 1,
            position=slot.position + 1,
            state=(*slot.state, values[0]),
            acknowledged=max(slot.acknowledged, lacks),
        )
        if len(values) > 1:
            rest = ("Steps", position + 1, values[1:], lacks)
            taken = w.with_stream(stream._replace(up=(rest, *stream.up[1:])))
        yield self._answer(taken, stream, now, ("Result", slot.position, now.state))

    def _reset(self, w: World, taken: World, stream: Stream, slot: Slot, message: Message) -> Iterator[World]:
        if message[1] != slot.sequence and self.setting.holds("sequence"):
            yield taken.tell(stream.number, ("Refused", "position mismatch", 0))
            return
        now = slot._replace(sequence=slot.sequence + 1, state=(), acknowledged=max(slot.acknowledged, message[1]))
        yield self._answer(taken, stream, now, ("ResetDone",))

    def _answer(self, w: World, stream: Stream, slot: Slot, answer: Message) -> World:
        if not self.setting.holds("acknowledged"):
            slot = slot._replace(acknowledged=slot.sequence)
        if self.setting.before:
            slot = slot._replace(held=(*slot.held, (slot.sequence, answer)))
            return w.with_slot(stream.server, w.clients[stream.client].session, slot)
        return w.with_slot(stream.server, w.clients[stream.client].session, slot).tell(stream.number, answer)

    def _set(self, w: World, taken: World, stream: Stream, slot: Slot, message: Message) -> Iterator[World]:
        _, sequence, value, epoch = message
        server, session = stream.server, w.clients[stream.client].session
        holds = self.setting.holds
        if (sequence != slot.sequence and holds("set sequence")) or (epoch != slot.epoch and holds("set epoch")):
            yield taken.tell(stream.number, ("Refused", "position mismatch", 0))
            return
        if (slot.writing or slot.held) and holds("one write"):
            return
        if not holds("set stored"):
            now = slot._replace(sequence=slot.sequence + 1, position=0, state=(value,))
            yield taken.with_slot(server, session, now).tell(stream.number, ("Set",))
        elif w.reachable:
            yield self._have_set(taken, server, session, value, stream.number)
        else:
            record = w.records[session]
            asked = [taken]
            if record is not None and record.epoch == slot.epoch:
                asked.append(taken.with_record(session, _only(record, slot, value)))
            for each in asked:
                if holds("unknown"):
                    yield each.with_slot(server, session, slot._replace(setting=(value, stream.number)))
                else:
                    yield each.tell(stream.number, ("Refused", "unavailable", 0))

    def _have_set(self, w: World, server: int, session: int, value: int, number: int) -> World:
        """The store answers a SetState that came on a stream of that number."""
        slot, record, stream = w.slot(server, session), w.records[session], w.stream(number)
        assert slot is not None
        if stream is None or stream.server != server:
            # It is gone, and the number may be another's.
            number = 0
        if record is None or record.epoch != slot.epoch:
            return w.with_slot(server, session, None).tell(number, ("Closed", "fenced"))
        after = w.with_record(session, _only(record, slot, value))
        sequence = slot.sequence + 1
        now = slot._replace(sequence=sequence, position=0, state=(value,), setting=None)
        now = now._replace(written=sequence, stored=(sequence,), acknowledged=sequence)
        return after.with_slot(server, session, now).tell(number, ("Set",))

    def _uncertain(self, w: World, stream: Stream, why: str = "") -> World:
        """What the store was asked for may have been done."""
        if why:
            gone = w.with_slot(stream.server, w.clients[stream.client].session, None)
            return gone.tell(stream.number, ("Closed", why))
        if self.setting.holds("unknown"):
            w = w.with_slot(stream.server, w.clients[stream.client].session, None)
        return w.tell(stream.number, ("Refused", "unavailable", 0))

    def _fork(self, w: World, taken: World, stream: Stream, slot: Slot, message: Message) -> Iterator[World]:
        done = taken.tell(stream.number, ("Forked",))
        if w.records[1] is not None:
            yield done if w.reachable else taken.tell(stream.number, ("Refused", "unavailable", 0))
            return
        assert slot.state is not None
        fork = Checkpoint(slot.sequence, slot.position, slot.state)
        if not self.setting.holds("fork stored"):
            behind = Write(stream.server, 1, 1, fork, fork.sequence)
            yield done._replace(writes=tuple(sorted((*w.writes, behind))))
            return
        if w.reachable:
            yield done.with_record(1, Record(1, -1, (fork,)))
            return
        refused = taken.tell(stream.number, ("Refused", "unavailable", 0))
        yield refused
        yield refused.with_record(1, Record(1, -1, (fork,)))

    def _close(self, w: World, taken: World, stream: Stream, slot: Slot, message: Message) -> Iterator[World]:
        server, session = stream.server, w.clients[stream.client].session
        if message[1] != slot.sequence and self.setting.holds("sequence"):
            yield taken.tell(stream.number, ("Refused", "position mismatch", 0))
            return
        record = w.records[session]
        assert record is not None
        if record.epoch != slot.epoch:
            yield self._uncertain(taken, stream, "fenced") if w.reachable else self._uncertain(taken, stream)
            return
        closed = taken.with_record(session, Record(record.epoch, -1, ()) if self.setting.holds("tombstone") else None)
        if w.reachable:
            yield closed.with_slot(server, session, None).tell(stream.number, ("Closed", "requested"))
        else:
            yield self._uncertain(taken, stream)
            yield self._uncertain(closed, stream)

    # ---- What goes on behind --------------------------------------------------------------------

    def _behind(self, w: World, server: int, session: int) -> Iterator[Step]:
        slot, record, holds = w.slot(server, session), w.records[session], self.setting.holds
        name = NAMES[server]
        wanted = record is not None and record.owner == server and record.wanted and w.reachable
        if wanted and holds("releases") and (slot is None or (record is not None and record.epoch > slot.epoch)):
            assert record is not None
            after = w.with_record(session, record._replace(owner=-1, wanted=False)).with_slot(server, session, None)
            if slot is not None:
                after = after.tell(slot.stream, ("Closed", "fenced"))
            yield f"{name} releases what it does not have", after
        if slot is None:
            return
        if slot.setting is not None:
            if w.reachable:
                value, stream = slot.setting
                yield f"{name} asks again for {value} to be set", self._have_set(w, server, session, value, stream)
            return
        underway = [each for each in w.writes if each.server == server and not each.report]
        if (
            slot.state is not None
            and slot.written != slot.sequence
            and not (slot.writing and holds("one write"))
            and len(underway) < 2
        ):
            checkpoint = Checkpoint(slot.sequence, slot.position, slot.state)
            write = Write(server, session, slot.epoch, checkpoint, slot.acknowledged)
            if write not in w.writes:
                after = w.with_slot(server, session, slot._replace(writing=True))
                yield f"{name} writes {checkpoint}", after._replace(writes=tuple(sorted((*w.writes, write))))
        clean = slot.written == slot.sequence and not slot.writing and not slot.held
        owned = record is not None and record.owner == server and w.reachable and record.epoch == slot.epoch
        if owned and (clean or not holds("hands over stored")) and (wanted or w.evictions):
            assert record is not None
            after = w.with_slot(server, session, None).tell(slot.stream, ("Closed", "parked"))
            after = after.with_record(session, record._replace(owner=-1, wanted=False))
            yield f"{name} hands over", after if wanted else after._replace(evictions=w.evictions - 1)
        if w.evictions and slot.state is not None and not slot.held and slot.sequence in slot.stored:
            evicted = w.with_slot(server, session, slot._replace(state=None))
            yield f"{name} evicts", evicted._replace(evictions=w.evictions - 1)

    def _stored(self, w: World, write: Write) -> Iterator[Step]:
        rest = list(w.writes)
        rest.remove(write)
        if write.report:
            yield (
                f"{NAMES[write.server]} hears that {write.checkpoint} is {write.report}",
                self._reported(w._replace(writes=tuple(rest)), write),
            )
            return
        record, report = store.write(self.setting, w.records[write.session], write)
        taken = w.with_record(write.session, record)
        if w.reachable:
            yield (
                f"the store has {report.report} {write.checkpoint} of epoch {write.epoch}",
                taken._replace(writes=tuple(sorted((*rest, report)))),
            )
            return
        unknown = tuple(sorted((*rest, write._replace(report="unknown"))))
        yield f"the store has not taken {write.checkpoint}", w._replace(writes=unknown)
        yield f"the store has taken {write.checkpoint}, and cannot say so", taken._replace(writes=unknown)

    def _reported(self, w: World, write: Write) -> World:
        slot = w.slot(write.server, write.session)
        if slot is None or (slot.epoch != write.epoch and self.setting.holds("report")):
            return w
        if write.report == "refused":
            return w.with_slot(write.server, write.session, None).tell(slot.stream, ("Closed", "fenced"))
        slot = slot._replace(writing=False)
        if write.report == "unknown":
            return w.with_slot(write.server, write.session, slot)
        leaving = [each for each in slot.held if each[0] <= write.tip]
        stored = (write.durable, write.tip) if self.setting.holds("exact slot") else (write.checkpoint.sequence,)
        slot = slot._replace(
            written=max(slot.written, write.checkpoint.sequence), stored=stored, held=slot.held[len(leaving) :]
        )
        w = w.with_slot(write.server, write.session, slot)
        for _, answer in leaving:
            w = w.tell(slot.stream, answer)
        return w.tell(slot.stream, ("Durable", write.durable))


def _only(record: Record, slot: Slot, value: int) -> Record:
    """What the store has of a session when its state is set."""
    return record._replace(checkpoints=(Checkpoint(slot.sequence + 1, 0, (value,)),))

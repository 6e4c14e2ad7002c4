"""The store of the model: what it does in one transaction."""

from typing import NamedTuple

from tests.resume.rules import TERM, Setting
from tests.resume.world import Checkpoint, Record, Slot, Write


class Claimed(NamedTuple):
    """A claim: refused for a reason, with the epoch that the session has; or what the store and the slot are now."""

    refusal: str
    epoch: int
    record: Record | None = None
    slot: Slot | None = None
    durable: int = 0


def claim(
    setting: Setting, record: Record | None, slot: Slot | None, server: int, epoch: int, lacks: int | None, mode: str
) -> Claimed:
    """Have a session, by docs/sessions.md.

    Args:
        setting: rules.
        record: what is stored.
        slot: what the server has; None: nothing.
        server: that claims it.
        epoch: proposed; 0: the next one.
        lacks: `Open.acknowledged`.
        mode: of the Open.
    """
    holds = setting.holds
    known = record.epoch if record else 0
    created = False
    if record is None or not record.checkpoints:
        if mode == "resume":
            return Claimed("not found", known)
        record, slot, created = Record(known, -1, (Checkpoint(0, 0, ()),)), None, True
    if epoch and epoch <= known and holds("epoch"):
        return Claimed("stale", known)
    new = epoch if epoch > known else known + 1
    valid = slot is not None and slot.state is not None and (slot.epoch == known or not holds("own epoch"))
    if lacks is None or created:
        return _take_up(setting, record, slot if valid else None, server, new, term=0 if created else TERM)
    if slot is not None and valid and (slot.sequence == lacks or (slot.sequence > lacks and not holds("exactly"))):
        kept = slot._replace(epoch=new, acknowledged=lacks, stream=0, writing=False, held=())
        stored = [each.sequence for each in record.checkpoints if each.sequence <= lacks]
    else:
        earlier = [each for each in record.checkpoints if each.sequence <= lacks]
        if not earlier:
            return Claimed("not replayable", known)
        kept = Slot(new, *earlier[-1], acknowledged=lacks, stream=0, written=earlier[-1].sequence)
        kept = kept._replace(stored=(earlier[-1].sequence,))
        stored = [earlier[-1].sequence]
    if not stored:
        return Claimed("not replayable", known)
    return Claimed("", new, Record(new, server, record.checkpoints), kept, stored[-1])


def _take_up(setting: Setting, record: Record, slot: Slot | None, server: int, epoch: int, term: int) -> Claimed:
    tip = record.checkpoints[-1]
    newest = tip
    if slot is not None and (slot.sequence >= tip.sequence or not setting.holds("newest")):
        assert slot.state is not None
        newest = Checkpoint(slot.sequence, slot.position, slot.state)
    if setting.holds("term"):
        newest = newest._replace(sequence=newest.sequence + term)
    checkpoints = (newest,) if setting.holds("taken up") else record.checkpoints
    written = newest.sequence if newest in checkpoints else -1
    kept = Slot(epoch, *newest, acknowledged=newest.sequence, stream=0, written=written, stored=(written,))
    return Claimed("", epoch, Record(epoch, server, checkpoints), kept, newest.sequence)


def write(setting: Setting, record: Record | None, w: Write) -> tuple[Record | None, Write]:
    """Take a checkpoint, or refuse it: what is stored now, and the report."""
    refused = w._replace(report="refused")
    if record is None or not record.checkpoints:
        if setting.holds("tombstone") and setting.holds("fork stored"):
            return record, refused
        record = Record(w.epoch, -1, ())
    if record.epoch != w.epoch and setting.holds("equal epoch"):
        return record, refused
    others = [each for each in record.checkpoints if each.sequence != w.checkpoint.sequence]
    checkpoints = sorted((*others, w.checkpoint))
    earlier = [each for each in checkpoints if each.sequence <= w.acknowledged]
    anchor = earlier[-1] if earlier and setting.holds("anchor") else checkpoints[-1]
    kept = (anchor,) if anchor == checkpoints[-1] else (anchor, checkpoints[-1])
    durable = anchor.sequence if setting.holds("durable") else checkpoints[-1].sequence
    return record._replace(checkpoints=kept), w._replace(report="taken", durable=durable, tip=kept[-1].sequence)

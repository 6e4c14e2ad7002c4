"""What may go wrong in the model."""

from collections.abc import Iterator

from tests.resume.client import Clients
from tests.resume.world import NAMES, World

Step = tuple[str, World]


def faults(w: World, clients: Clients) -> Iterator[Step]:
    """All that may go wrong now, and the store's coming back."""
    if not w.reachable:
        yield "the store answers again", w._replace(reachable=True)
    if not w.faults:
        return
    less = w._replace(faults=w.faults - 1, intact=False)
    for k, client in enumerate(w.clients):
        stream = w.stream(client.stream)
        if stream is None:
            continue
        yield f"FAULT: client {k} loses its stream", clients.leave(less, k)
        if stream.held_by_server:
            lost = less.with_stream(stream._replace(held_by_server=False, up=())).detached(stream.number)
            yield f"FAULT: {NAMES[stream.server]} loses stream {stream.number}", lost
            if stream.down:
                silent = less.with_stream(stream._replace(held_by_server=False, up=(), down=())).detached(stream.number)
                yield f"FAULT: {NAMES[stream.server]} loses stream {stream.number}, and what it said", silent
    if w.reachable:
        yield "FAULT: the store does not answer", less._replace(reachable=False)
    for server in (0, 1):
        if any(w.slot(server, session) for session in (0, 1)) or any(
            each.server == server and each.up for each in w.streams
        ):
            yield f"FAULT: {NAMES[server]} is killed", _killed(less, server)
        if any(record and record.owner == server and w.slot(server, n) for n, record in enumerate(w.records)):
            yield f"FAULT: {NAMES[server]} is not heard of", _let_go(less, server)


def _let_go(w: World, server: int) -> World:
    records = tuple(
        each._replace(owner=-1, wanted=False) if each and each.owner == server else each for each in w.records
    )
    return w._replace(records=records)


def _killed(w: World, server: int) -> World:
    w = _let_go(w, server)
    for session in (0, 1):
        w = w.with_slot(server, session, None)
    streams = [
        each if each.server != server else each._replace(held_by_server=False, up=())
        for each in w.streams
        if each.server != server or each.held_by_client or each.down
    ]
    writes = tuple(each for each in w.writes if each.server != server or not each.report)
    return w._replace(streams=tuple(streams), writes=writes)

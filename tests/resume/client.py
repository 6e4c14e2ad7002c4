"""The client of the model: it keeps a log, opens, sends, drops answers that it has, and objects to wrong ones."""

from collections.abc import Callable, Iterator

from tests.resume.rules import Setting, Violation
from tests.resume.script import Script
from tests.resume.world import NAMES, Client, Message, Stream, World

Step = tuple[str, World | Violation]


class Clients:
    """What the clients may do."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.scripts = [Script(text, k) for k, text in enumerate(setting.scripts)]
        self.forks = "F" in setting.scripts[0]

    def steps(self, w: World) -> Iterator[Step]:
        """All that a client may do."""
        for k, client in enumerate(w.clients):
            if client.over:
                continue
            if not client.stream:
                yield from self._open(w, k)
            stream = w.stream(client.stream)
            if stream is not None:
                yield from self._send(w, k, stream)
                if stream.down:
                    message = stream.down[0]
                    after = w.with_stream(stream._replace(down=stream.down[1:]))
                    yield f"client {k} reads {message}", self._reading(self._read, after, k, message)
                if not stream.held_by_server:
                    yield f"client {k} sees its stream end", self.leave(w, k)
            former = w.stream(client.former)
            if former is not None and former.down and client.former != client.stream:
                message = former.down[0]
                after = w.with_stream(former._replace(down=former.down[1:]))
                yield f"client {k} reads {message} of before", self._reading(self._answered, after, k, message)

    def done(self, w: World) -> bool:
        """Whether every client has what it asked for, or was told that it cannot have it."""
        return all(client.over or client.taken == len(self.scripts[k]) for k, client in enumerate(w.clients))

    def leave(self, w: World, k: int) -> World:
        """The client reads its stream no more; what it sent may still arrive."""
        client = w.clients[k]
        stream = w.stream(client.stream)
        if stream is not None:
            if not self.setting.holds("one stream"):
                w = w.with_stream(stream._replace(held_by_client=False)).with_client(k, former=stream.number)
            elif stream.held_by_server and stream.up:
                w = w.with_stream(stream._replace(held_by_client=False, down=()))
            else:
                # That the server sees the end later changes nothing.
                w = w.without_stream(stream.number).detached(stream.number)
        return w.with_client(k, stream=0, opened=False, sent=client.taken, heard=client.taken)

    # ---- Sending --------------------------------------------------------------------------------

    def _lacks(self, w: World, k: int) -> int | None:
        client = w.clients[k]
        if client.base is None:
            return None
        supposed = client.asked and self.setting.holds("supposes")
        return client.base + self.scripts[k].counted[client.taken] + supposed

    def _open(self, w: World, k: int) -> Iterator[Step]:
        client, script = w.clients[k], self.scripts[k]
        # An Open that meets an unreachable store is one that was on its way to it.
        if client.taken == len(script) or client.epoch >= self.setting.epochs or not w.reachable:
            return
        if k and (w.clients[0].base is None or (self.forks and not self._forked(w))):
            return
        lacks = self._lacks(w, k)
        epoch = client.epoch + 1 if self.setting.holds("proposes") or lacks is not None else 0
        mode = "either" if k == 0 and client.base is None else "resume"
        message = ("Open", epoch, lacks, mode)
        number = next(n for n in range(1, 99) if w.stream(n) is None and n != client.former)
        early = not self.setting.holds("opened") and lacks is not None
        for server in (0, 1):
            stream = Stream(number, server, k, up=(message,))
            after = w._replace(streams=tuple(sorted((*w.streams, stream))))
            after = after.with_client(
                k, epoch=max(epoch, client.epoch), stream=number, opened=early, sent=client.taken, heard=client.taken
            )
            yield f"client {k} sends {message} to {NAMES[server]}", after

    def _forked(self, w: World) -> bool:
        return w.clients[0].taken > self.scripts[0].kinds.index("F")

    def _send(self, w: World, k: int, stream: Stream) -> Iterator[Step]:
        client, script, holds = w.clients[k], self.scripts[k], self.setting.holds
        at = client.sent
        if not client.opened or at == len(script) or at - client.heard >= self.setting.window:
            return
        assert client.base is not None
        kind = script.kinds[at]
        quiet = client.heard == at == client.taken
        alone = (kind != "R" and "R" not in script.kinds[client.heard : at]) or client.heard == at
        if (
            (not alone and holds("alone"))
            or (kind in "WF" and not quiet and (kind == "F" or holds("quiet set")))
            or (kind == "C" and not quiet and holds("quiet close"))
        ):
            return
        sequence = client.base + script.counted[at]
        end = at + 1
        message: Message
        if kind == "s":
            end = script.ends[at]
            position = script.after(client.origin, at)[0]
            lacks = self._lacks(w, k) if self.setting.window > 1 and holds("acknowledges") else None
            message = ("Steps", position, tuple(script.values[at:end]), lacks)
        elif kind == "F":
            message = ("Fork",)
        else:
            message = ({"R": "Reset", "C": "Close", "W": "SetState"}[kind], sequence, script.values[at])
            message = (*message, client.epoch) if kind == "W" else message
        w = w.with_client(k, sent=end, asked=client.asked or kind == "W")
        if stream.held_by_server:
            w = w.with_stream(stream._replace(up=(*stream.up, message)))
        yield f"client {k} sends {message}", w

    # ---- Reading --------------------------------------------------------------------------------

    def _reading(
        self, read: Callable[[World, int, Message], World], w: World, k: int, message: Message
    ) -> World | Violation:
        try:
            return read(w, k, message)
        except Violation as violation:
            return violation

    def _read(self, w: World, k: int, message: Message) -> World:
        client, script = w.clients[k], self.scripts[k]
        kind = message[0]
        if kind == "Opened":
            return self._opened(w, k, message)
        if kind == "Durable":
            return self._forget(w, k, message[1])
        if kind == "Refused":
            return self._refused(w, k, *message[1:])
        if kind == "Closed":
            if message[1] == "requested":
                if script.kinds[client.heard : client.heard + 1] != "C" or client.heard > client.taken:
                    raise Violation("closed before everything was answered")
                return self._closed(w, k)
            if message[1] == "lost":
                raise Violation("an evicted session cannot be restored")
            if message[1] == "taken over":
                return self._over(w, k, "the session was taken over")
            return self.leave(w, k)
        return self._answered(w, k, message)

    def _answered(self, w: World, k: int, message: Message) -> World:
        client, script = w.clients[k], self.scripts[k]
        kind, at = message[0], client.heard
        wanted = {"s": "Result", "R": "ResetDone", "W": "Set", "F": "Forked"}.get(script.kinds[at : at + 1])
        position, state = script.after(client.origin, at + 1) if at < len(script) else (0, ())
        if kind in ("Opened", "Durable", "Refused", "Closed"):
            return w
        if kind != wanted or (at >= client.sent and client.opened):
            raise Violation(f"{message} answers nothing that was asked for")
        if kind == "Result" and (message[1] + 1 != position or message[2] != state):
            raise Violation(f"{message} came, and {state} at {position - 1} is right")
        heard = at + 1
        while heard < client.taken and script.kinds[heard] in "FC":
            heard += 1
        w = w.with_client(k, heard=heard, sent=max(heard, client.sent), taken=max(client.taken, heard))
        if kind == "Set":
            w = w.with_client(k, asked=False, forgotten=at + 1)
        return w

    def _opened(self, w: World, k: int, message: Message) -> World:
        _, epoch, sequence, durable, position, state = message
        client, script = w.clients[k], self.scripts[k]
        w = w.with_client(k, epoch=max(epoch, client.epoch), opened=True)
        if client.base is None:
            self._check_taken_up(w, k, position, state)
            w = w.with_client(k, base=sequence - script.counted[client.taken])
            return self._forget(w if client.taken else w.with_client(k, origin=(position, state)), k, durable)
        if client.asked and sequence == client.base + script.counted[client.taken] + 1:
            # The state was set.
            after = client.taken + 1
            return w.with_client(k, asked=False, taken=after, forgotten=after, sent=after, heard=after)
        # Else it was not, and it will not be any more.
        w = w.with_client(k, asked=False)
        at = script.at(sequence - client.base, client.forgotten, client.taken)
        if at is None or at < client.forgotten:
            raise Violation(f"the session stands at {sequence}, and the client has forgotten what came after")
        if at > client.taken:
            raise Violation(f"the session stands at {sequence}, and the client lacks answers before it")
        if client.sent == client.heard:
            w = w.with_client(k, sent=at, heard=at)
        return self._forget(w, k, durable)

    def _check_taken_up(self, w: World, k: int, position: int, state: tuple[int, ...]) -> None:
        if k == 0:
            if state:
                raise Violation(f"a new session has the state {state}")
            return
        first, script = w.clients[0], self.scripts[0]
        if self.forks:
            at = script.kinds.index("F")
            if (position, state) != script.after(first.origin, at):
                raise Violation(f"the fork has the state {state}")
            return
        origin = first.origin
        all_states = [script.after(origin, n) for n in range(len(script) + 1)]
        if (position, state) not in all_states:
            raise Violation(f"taken up with {state} at {position}, which never was")
        least = first.taken if w.intact or self.setting.before else first.forgotten
        if (position, state) not in all_states[least:]:
            raise Violation(f"taken up with {state}, before what was answered, or was to be forgotten")

    def _forget(self, w: World, k: int, durable: int) -> World:
        client, script = w.clients[k], self.scripts[k]
        assert client.base is not None
        n = client.forgotten
        while n < client.taken and client.base + script.counted[n] < durable:
            n += 1
        return w.with_client(k, forgotten=n) if n != client.forgotten else w

    def _refused(self, w: World, k: int, reason: str, epoch: int) -> World:
        client, script = w.clients[k], self.scripts[k]
        if reason == "not found":
            if script.kinds[client.taken] == "C":
                return self._closed(w, k)
            if self._rivals(w, k):
                return self._over(w, k, "the session was closed by another")
            raise Violation("the session is gone")
        if reason == "not replayable":
            return self._over(w, k, "no checkpoint at or before what the client lacks")
        return self.leave(w.with_client(k, epoch=max(client.epoch, epoch)), k)

    def _closed(self, w: World, k: int) -> World:
        taken = w.clients[k].taken + 1
        return self.leave(w.with_client(k, taken=taken, forgotten=taken, base=None), k)

    def _rivals(self, w: World, k: int) -> bool:
        session = w.clients[k].session
        return any(each.epoch for n, each in enumerate(w.clients) if n != k and each.session == session)

    def _over(self, w: World, k: int, why: str) -> World:
        if not self._rivals(w, k):
            raise Violation(why)
        return self.leave(w.with_client(k, over=True), k)


def new(setting: Setting) -> tuple[Client, ...]:
    """The clients, before they have done anything."""
    forks = "F" in setting.scripts[0]
    return tuple(Client(session=1 if forks and k else 0) for k in range(len(setting.scripts)))

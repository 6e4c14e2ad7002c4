"""Sequences of random messages through both doors: every accepted step is answered once, or its stream says why not.

On each stream a pilot takes part, whose messages are good and whose answers are counted; all others are anything: good,
good but for one field, built at random from the descriptors of both protos, or bytes that are no message.
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from tests.hostile.calls import OIP, OWN, Call, ask, infer, opening, stepping
from tests.hostile.messages import Messages
from tests.hostile.served import Memory, Server
from tests.hostile.target import Target, channel, together
from tests.hostile.trial import MOST_MIB

STREAM_MESSAGES: Final = 400
UNARY_MESSAGES: Final = 40
SPOILED: Final = 0.001
"""Of the messages of a stream: it ends with the first that is none."""
FLAT_MIB: Final = 64.0
_CLIENTS: Final = 4
_PILOT: Final = 4_321
# From the seed of a round to that of its client's next.
_NEXT: Final = 10_000_000_000
_STREAM_STATUSES: Final = {"OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
_UNARY_STATUSES: Final = {
    *("OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"),
    *("UNAUTHENTICATED", "UNIMPLEMENTED"),
}

# As other servers answer where models cannot be loaded.
_NOT_HERE: Final = {OIP + "RepositoryModelLoad", OIP + "RepositoryModelUnload"}


def _methods(service: Any, path: str) -> dict[str, type[Message]]:
    return {path + each.name: GetMessageClass(each.input_type) for each in service.methods if not each.client_streaming}


METHODS: Final = _methods(pb.DESCRIPTOR.services_by_name["Gatestream"], OWN) | _methods(
    oip.DESCRIPTOR.services_by_name["GRPCInferenceService"], OIP
)


@dataclass
class Fuzzed:
    """What a run has shown.

    Attributes:
        messages: without those behind one that ended its stream, which nobody reads.
        warm_mib: the server's memory after the first fifth.
        violations: what must not be.
    """

    served: str
    seed: int
    messages: int = 0
    steps: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    neighbours_steps: int = 0
    wrong: int = 0
    warm_mib: float = 0.0
    end_mib: float = 0.0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """For the report."""
        ended = ", ".join(f"{name} {count:,}" for name, count in self.statuses.most_common())
        return (
            f"Fuzzer, server with {'tokens' if self.served == 'tokens' else 'no tokens'}, seed {self.seed}: "
            f"{self.messages:,} messages in {self.seconds:.0f} s, {self.steps:,} accepted steps answered once each; "
            f"calls ended {ended}; the neighbour took {self.neighbours_steps:,} steps, {self.wrong} wrong; memory "
            f"{self.warm_mib:.0f} MiB after a fifth, {self.end_mib:.0f} MiB at the end."
        )


def fuzz(server: Server, messages: int, seed: int) -> Fuzzed:
    """Send so many messages, of some clients, to a server with a neighbour."""
    found = Fuzzed(server.served, seed)
    begin = time.time()
    with Memory(server, server.rss_mib() + MOST_MIB):
        _run(server, found, messages // 5)
        found.warm_mib = server.rss_mib()
        _run(server, found, messages - found.messages)
    end = time.time()
    seen = server.seen(begin, end)
    found.seconds, found.end_mib = end - begin, server.rss_mib()
    found.neighbours_steps, found.wrong = seen.steps, seen.wrong
    if not server.alive:
        found.violations.append("the server ended")
    if seen.wrong:
        found.violations.append(f"the neighbour got {seen.wrong} wrong numbers")
    if seen.errors:
        found.violations.append(f"the neighbour's stream ended: {seen.errors[0]}")
    if found.end_mib - found.warm_mib > FLAT_MIB:
        found.violations.append(f"memory rose from {found.warm_mib:.0f} to {found.end_mib:.0f} MiB")
    return found


def replay(server: Server, seed: int) -> list[str]:
    """Send what one round of a client has sent; what was wrong with the answers."""
    found = Fuzzed(server.served, seed)
    _round(server.target, found, seed)
    return found.violations


def _run(server: Server, found: Fuzzed, messages: int) -> None:
    """Some clients at once; what they found is added."""
    parts = [Fuzzed(server.served, 1_000_000 * found.seed + found.messages + k) for k in range(_CLIENTS)]
    together(lambda k: _client(server.target, parts[k], messages // _CLIENTS), _CLIENTS)
    for part in parts:
        found.messages += part.messages
        found.steps += part.steps
        found.statuses += part.statuses
        found.violations += part.violations


def _client(target: Target, found: Fuzzed, messages: int) -> None:
    """Rounds, each with a seed of its own."""
    seed = found.seed
    while found.messages < messages and len(found.violations) < 20:
        before = len(found.violations)
        _round(target, found, seed)
        found.violations[before:] = [f"{each} (--replay {seed})" for each in found.violations[before:]]
        seed += _NEXT


def _round(target: Target, found: Fuzzed, seed: int) -> None:
    """Streams of both doors and unary calls in turn, on one connection."""
    source = Messages(seed)
    with channel(target) as opened:
        _own_stream(target, opened, source, found)
        _oip_stream(target, opened, source, found)
        _unary_calls(target, opened, source, found)
    found.messages += UNARY_MESSAGES


def _own_message(source: Messages) -> bytes:
    """One that is not the pilot's."""
    rng = source.rng
    how = rng.random()
    handle = rng.randrange(6)
    good = rng.choice(
        [
            opening(handle, rng.choice(["", "", "s0", "s1"]), gates=rng.random() < 0.3),
            stepping([handle], rng.choice([1, 1, 2, 5, 64])),
            stepping(rng.sample(range(6), 3), rng.choice([1, 2])),
            pb.ClientMessage(reset=pb.Reset(handle=[handle])),
            pb.ClientMessage(close=pb.Close(handle=[handle])),
        ]
    )
    if how < 0.45:
        return good.SerializeToString()
    if how < 0.75:
        return bytes(source.changed(good).SerializeToString())
    return bytes(source.of(pb.ClientMessage, rng.choice([0.2, 0.5, 0.9])).SerializeToString())


def _own_stream(target: Target, opened: grpc.Channel, source: Messages, found: Fuzzed) -> None:
    call = Call(target, opened)
    call.send(opening(_PILOT))
    position, expected, broken = 0, 0, False
    for _ in range(STREAM_MESSAGES - 1):
        found.messages += not broken
        if source.rng.random() < 0.25:
            length = source.rng.choice([1, 1, 3])
            steps = stepping([_PILOT], length)
            steps.steps.first.append(position)
            call.send(steps)
            position += length
        else:
            data = _own_message(source)
            if source.rng.random() < SPOILED:
                data = source.spoiled(data)
            if not broken and not _parses(pb.ClientMessage, data):
                # What comes behind it is not read.
                broken, expected = True, position
            call.send(data)
    expected = expected if broken else position
    answered, status = _pilots_steps(call)
    found.statuses[status] += 1
    found.steps += len(answered)
    ordered = answered == sorted(set(answered))
    whole = answered[:expected] == list(range(expected)) and (broken or len(answered) == expected)
    if status not in _STREAM_STATUSES or not ordered or not whole:
        twice = [each for each, count in Counter(answered).items() if count > 1]
        found.violations.append(
            f"own wire: ended {status} {call.call.details()!r}, {len(answered)} of {expected} steps answered, "
            f"twice {twice[:5]}"
        )


def _pilots_steps(call: Call) -> tuple[list[int], str]:
    """Positions of the pilot's steps, by results or errors, in the order of their answers; the stream's status."""
    answered: list[int] = []
    for message in call.messages():
        kind = message.WhichOneof("kind")
        if kind == "results":
            said: Any = message.results
        elif kind == "error" and len(message.error.first):
            said = message.error
        else:
            continue
        lengths = list(said.length) or [1] * len(said.handle)
        for handle, first, length in zip(said.handle, said.first, lengths, strict=True):
            if handle == _PILOT:
                answered += range(first, first + length)
    return answered, call.status


def _oip_message(source: Messages, k: int) -> bytes:
    rng = source.rng
    names: list[str | int] = ["", "", "s0", "s1", "s2", 1, 2]
    sequence = rng.choice(names)
    outputs = rng.choice([(), (), ("y",), ("y", "i"), ("y", "y"), ("nothing",)])
    good = infer(
        rng.choice([1, 1, 2, 64]), sequence=sequence, start=rng.random() < 0.3, end=rng.random() < 0.2, outputs=outputs
    )
    good.id = f"{k}"
    how = rng.random()
    if how < 0.5:
        return good.SerializeToString()
    if how < 0.85:
        return bytes(source.changed(good).SerializeToString())
    return bytes(source.of(oip.ModelInferRequest, rng.choice([0.1, 0.3])).SerializeToString())


def _oip_stream(target: Target, opened: grpc.Channel, source: Messages, found: Fuzzed) -> None:
    """Each request has one answer, in the order of the requests; the pilot's carry their number in the id."""
    call = Call(target, opened, OIP + "ModelStreamInfer")
    ids: list[str | None] = []
    broken: int | None = None
    for k in range(STREAM_MESSAGES):
        found.messages += broken is None
        pilot = source.rng.random() < 0.25
        if pilot:
            request = infer(outputs=("y",))
            request.id = f"pilot-{k}"
            data = request.SerializeToString()
        else:
            data = _oip_message(source, k)
            if source.rng.random() < SPOILED:
                data = source.spoiled(data)
            if broken is None and not _parses(oip.ModelInferRequest, data):
                broken = k
        ids.append(f"pilot-{k}" if pilot else None)
        call.send(data)
    got = [oip.ModelStreamInferResponse.FromString(data).infer_response for data in call.raw()]
    found.statuses[call.status] += 1
    expected = STREAM_MESSAGES if broken is None else broken
    pilots = [each.id for each in got if each.id.startswith("pilot-")]
    found.steps += len(pilots)
    in_time = [each for each in ids[:expected] if each is not None]
    right = pilots[: len(in_time)] == in_time and len(pilots) == len(set(pilots))
    counted = len(got) == expected if broken is None else len(got) >= expected
    if call.status not in _STREAM_STATUSES or not right or not counted:
        found.violations.append(
            f"Open Inference: ended {call.status} {call.call.details()!r}, {len(got)} answers of {expected} requests, "
            f"{len(pilots)} of {len(in_time)} pilots, {'in order' if right else 'not in order'}"
        )


def _unary_calls(target: Target, opened: grpc.Channel, source: Messages, found: Fuzzed) -> None:
    for _ in range(UNARY_MESSAGES):
        path, kind = source.rng.choice(list(METHODS.items()))
        data = source.of(kind, 0.3).SerializeToString()
        if source.rng.random() < 0.1:
            data = source.spoiled(data)
        _, status = ask(target, opened, path, data, token="" if source.rng.random() < 0.05 else None)
        found.statuses[status] += 1
        allowed = {*_UNARY_STATUSES, "UNAVAILABLE"} if path in _NOT_HERE else _UNARY_STATUSES
        if status not in allowed and not any(path in each and status in each for each in found.violations):
            found.violations.append(f"{path} ended {status}, of {data[:80].hex()!r}")


def _parses(kind: type[Message], data: bytes) -> bool:
    try:
        kind.FromString(data)
    except DecodeError:
        return False
    return True

"""What is done to a serving process, and to gRPC, from outside, for speed; `--tuning` chooses.

A server is right without any of it, and slower. What concerns gRPC relies on what is inside it, under private names,
and is therefore done only to the version that it was tried with, unless it is asked for by name.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from typing import Any, Final

from gatestream.server.config import ServerConfig, chosen_tunings
from gatestream.server.config import Tuning as Name
from gatestream.server.process import allocator, busy_poll, garbage, grpc_poller, protobuf_trim
from gatestream.server.process.event_loop import GRPC_QUEUE, Loop

_TRIED: Final = "1.85"
# As long may the loop keep a model's thread from the results of its run. Python's own 5 ms is as long as many a run.
_SWITCH_SECONDS: Final = 1e-4
_VERBOSITY: Final = "GRPC_VERBOSITY"
_NOTHING: Final = "NONE"


@dataclass(frozen=True, slots=True)
class Tuning:
    """One thing that is done.

    Attributes:
        name: as `--tuning` takes it.
        does: what it does, and what for.
        why_not: why it cannot be done to a process that is configured so; None: it can.
        inside_grpc: it relies on what gRPC does not promise.
        at_once: does it; None: it is done by `Tuned`, when its time has come.
    """

    name: Name
    does: str
    why_not: Callable[[ServerConfig], str | None]
    inside_grpc: bool = False
    at_once: Callable[[], None] | None = None


def _no_reader(_config: ServerConfig) -> str | None:
    # Only here: gRPC finds out how to wait for its sockets when it is imported.
    from grpc._cython import cygrpc  # type: ignore[attr-defined]  # noqa: TID251

    handler = "_handle_events"
    found = hasattr(getattr(cygrpc, GRPC_QUEUE, None), handler)
    return None if found else f"this grpcio has no {GRPC_QUEUE}.{handler}"


def _no_switch_interval(_config: ServerConfig) -> str | None:
    return None if hasattr(sys, "setswitchinterval") else "this Python has no switch interval"


def _shorten_switch_interval() -> None:
    sys.setswitchinterval(_SWITCH_SECONDS)


def _no_prompt_writer(_config: ServerConfig) -> str | None:
    found = hasattr(asyncio.Future, "_asyncio_future_blocking")
    return None if found else "this asyncio has no Future._asyncio_future_blocking"


TUNINGS: Final = (
    # First, since the next one imports gRPC.
    Tuning(
        "grpc-poller",
        "gRPC's completion queue reads the sockets on its own thread, instead of being handed each message by another",
        lambda _config: grpc_poller.why_not(),
        inside_grpc=True,
        at_once=grpc_poller.read_in_queue,
    ),
    Tuning(
        "grpc-reader",
        "the event loop takes all of gRPC's wake-ups in one turn, instead of one in each",
        _no_reader,
        inside_grpc=True,
    ),
    Tuning(
        "busy-poll",
        "the event loop looks for what comes for a while before it sleeps (`--busy-poll-us`)",
        busy_poll.why_not,
    ),
    Tuning(
        "switch-interval",
        "a model's thread waits for Python's interpreter for 0.1 ms at a time, instead of 5",
        _no_switch_interval,
        at_once=_shorten_switch_interval,
    ),
    Tuning(
        "allocator",
        "freed memory is kept for the next message, and given back to the kernel after a burst",
        lambda _config: allocator.why_not(),
        at_once=allocator.keep_freed,
    ),
    Tuning(
        "protobuf-trim",
        "protobuf gives no freed memory back on the loop's thread; the allocator's tuning does so beside it",
        lambda _config: protobuf_trim.why_not(),
        at_once=protobuf_trim.keep_from_trimming,
    ),
    Tuning(
        "garbage",
        "Python looks for unreachable objects when few calls are open, and not among what was loaded at the start",
        lambda _config: garbage.why_not(),
    ),
    Tuning(
        "prompt-writer",
        "a stream's message leaves in the turn of the loop in which it is made, and not in the next",
        _no_prompt_writer,
    ),
)
"""All of them, in the order in which they are done."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """What is done to this process.

    Attributes:
        config: of the server.
        active: what is done.
        inactive: what is not, and why.
    """

    config: ServerConfig
    active: tuple[Name, ...] = ()
    inactive: Mapping[Name, str] = field(default_factory=dict)

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """As asyncio.run."""
        with asyncio.Runner(loop_factory=self._loop) as runner:
            runner.run(main)

    def _loop(self) -> asyncio.AbstractEventLoop:
        all_wake_ups = "grpc-reader" in self.active
        seconds = busy_poll.busy_poll(self.config) if "busy-poll" in self.active else 0.0
        if not all_wake_ups and not seconds:
            return asyncio.SelectorEventLoop()
        return Loop(busy_poll.BusySelector(seconds), all_wake_ups=all_wake_ups)

    async def when_loaded(self) -> None:
        """Do what is due when what is there will stay: the models are loaded, and nobody is served yet."""
        if "garbage" in self.active:
            garbage.keep_loaded()
        if "allocator" in self.active:
            await allocator.fault_in()

    def while_serving(self, calls: Callable[[], int]) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        """What goes on behind the serving, each with what it is called.

        Args:
            calls: that are open.
        """
        if "allocator" in self.active:
            yield "the look at memory", allocator.give_back
        if "garbage" in self.active:
            yield "the look at garbage", partial(garbage.collect, calls)


def tune(config: ServerConfig) -> Tuned:
    """Do to this process what `config.tuning` chooses and can be done to it. Nothing has imported gRPC yet."""
    silence_grpc()
    chosen = chosen_tunings(config.tuning)
    active, inactive = [], {}
    for tuning in TUNINGS:
        why = _why_not(tuning, config, chosen)
        if why is not None:
            inactive[tuning.name] = why
            continue
        active.append(tuning.name)
        if tuning.at_once is not None:
            tuning.at_once()
    return Tuned(config, tuple(active), inactive)


def _why_not(tuning: Tuning, config: ServerConfig, chosen: Mapping[Name, bool]) -> str | None:
    if tuning.name not in chosen:
        return "--tuning leaves it out"
    by_name = chosen[tuning.name]
    untried = _untried() if tuning.inside_grpc and not by_name else None
    return untried or tuning.why_not(config)


def _untried() -> str | None:
    version = metadata.version("grpcio")
    if version.split(".")[:2] == _TRIED.split("."):
        return None
    return f"it was tried with grpcio {_TRIED}, and this is {version}; --tuning can ask for it by name"


def silence_grpc() -> None:
    """Have gRPC's core write no lines of its own; nothing has imported gRPC yet.

    They go to standard error past the log, and whoever can connect can make it write more of them. Who sets
    GRPC_VERBOSITY has the last word. It is no tuning: it is always done.
    """
    os.environ.setdefault(_VERBOSITY, _NOTHING)


def grpc_is_silent() -> bool:
    """Whether it writes none."""
    return os.environ.get(_VERBOSITY) == _NOTHING

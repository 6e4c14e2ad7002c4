import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from gatestream.server import config
from gatestream.server.config import ServerConfig, Tuning
from gatestream.server.process import allocator, busy_poll, grpc_poller
from gatestream.server.process.tuning import TUNINGS, Tuned, grpc_is_silent, tune

NAMES = [tuning.name for tuning in TUNINGS]
DOCS = Path(__file__).parents[3] / "docs" / "operations.md"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What each test finds, and leaves: gRPC is told nothing, and there are CPUs enough."""
    monkeypatch.delenv("GRPC_EXPERIMENTS", raising=False)
    monkeypatch.setenv("GRPC_VERBOSITY", "NONE")
    monkeypatch.setattr(busy_poll, "cpus_available", lambda: 2)


def tuned(tuning: str, **settings: Any) -> Tuned:
    return tune(ServerConfig(artifacts=(Path("model.onnx"),), tuning=tuning, **settings))


def test_the_setting_has_their_names() -> None:
    assert tuple(NAMES) == config.TUNINGS


def test_each_stands_in_the_documentation() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \|", DOCS.read_text(), re.MULTILINE)
    assert [row for row in rows if row[0] in NAMES] == [(tuning.name, tuning.does) for tuning in TUNINGS]


# ---- What is done --------------------------------------------------------------------------------

# Which of them can be told from what they do.
DONE = """
import asyncio, gc, json, os, resource, socket, sys
from pathlib import Path

from gatestream.server.config import ServerConfig
from gatestream.server.process import busy_poll, protobuf_trim
from gatestream.server.process.tuning import tune

assert "grpc" not in sys.modules
busy_poll.cpus_available = lambda: 2
done = []

class Selector(busy_poll.BusySelector):
    def __init__(self, most):
        super().__init__(most)
        if most:
            done.append("busy-poll")

class PollerCompletionQueue:
    def handle(self):
        self.heard = getattr(self, "heard", 0) + 1
        ours.recv(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        b"".join([b"x" * 2**18 for _ in range(10)])
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

async def main():
    queue = PollerCompletionQueue()
    asyncio.get_running_loop().add_reader(ours, queue.handle)
    theirs.send(b"111")
    for _ in range(20):
        await asyncio.sleep(0)
    asyncio.get_running_loop().remove_reader(ours)
    if queue.heard == 1:
        done.append("grpc-reader")
    before = gc.get_freeze_count()
    await tuned.when_loaded()
    names = [name for name, _ in tuned.while_serving(int)]
    if gc.get_freeze_count() > before and gc.get_threshold()[2] > 1000 and "the look at garbage" in names:
        done.append("garbage")
    faults()
    if faults() < 100 and "the look at memory" in names:
        done.append("allocator")

busy_poll.BusySelector = Selector
ours, theirs = socket.socketpair()
tuned = tune(ServerConfig(artifacts=(Path("m.onnx"),), tuning=sys.argv[1]))
tuned.run(main())
if os.environ.get("GRPC_EXPERIMENTS") == "-event_engine_listener":
    done.append("grpc-poller")
if protobuf_trim.why_not() == "this protobuf does not call malloc_trim":
    done.append("protobuf-trim")
if sys.getswitchinterval() < 1e-3:
    done.append("switch-interval")
if "prompt-writer" in tuned.active:
    done.append("prompt-writer")  # by the streams of the server
print(json.dumps([sorted(done), sorted(tuned.active)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator can be told on Linux")
@pytest.mark.parametrize("chosen", ["all", "none", *NAMES])
def test_what_is_chosen_is_done_and_nothing_else(chosen: str) -> None:
    ended = subprocess.run([sys.executable, "-c", DONE, chosen], check=True, capture_output=True, text=True)
    done, active = json.loads(ended.stdout)
    assert done == active == (sorted(NAMES) if chosen == "all" else [name for name in NAMES if name == chosen])


def test_a_process_for_which_nothing_was_done_has_nothing_done_to_it() -> None:
    untouched = Tuned(ServerConfig(artifacts=(Path("model.onnx"),)))
    assert (untouched.active, dict(untouched.inactive)) == ((), {})
    assert list(untouched.while_serving(int)) == []


# ---- Why not -------------------------------------------------------------------------------------


def missing(module: object, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.delattr(module, name)


def library(*names: str) -> Callable[[pytest.MonkeyPatch], None]:
    found = SimpleNamespace(**dict.fromkeys(names))
    return lambda monkeypatch: monkeypatch.setattr(allocator, "_library", lambda: found)


def no_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_poller, "_EXPERIMENT", "nothing")
    monkeypatch.setenv("GRPC_EXPERIMENTS", "-nothing")


@pytest.mark.parametrize(
    ("name", "how", "why"),
    [
        ("grpc-poller", lambda _: None, "gRPC was imported before it could be told"),
        (
            "grpc-poller",
            lambda monkeypatch: monkeypatch.setenv("GRPC_EXPERIMENTS", "tcp_frame_size_tuning"),
            "GRPC_EXPERIMENTS is 'tcp_frame_size_tuning', which has the last word",
        ),
        ("grpc-poller", no_experiment, "this grpcio has no experiment nothing"),
        (
            "grpc-reader",
            missing(cygrpc, "PollerCompletionQueue"),
            "this grpcio has no PollerCompletionQueue._handle_events",
        ),
        (
            "grpc-reader",
            lambda monkeypatch: monkeypatch.setattr(cygrpc, "PollerCompletionQueue", object),
            "this grpcio has no PollerCompletionQueue._handle_events",
        ),
        (
            "busy-poll",
            lambda monkeypatch: monkeypatch.setattr(busy_poll, "cpus_available", lambda: 1),
            "it would take the CPU that gRPC's own thread needs: 1 workers have 1 CPUs",
        ),
        ("switch-interval", missing(sys, "setswitchinterval"), "this Python has no switch interval"),
        (
            "allocator",
            lambda monkeypatch: monkeypatch.setattr(sys, "platform", "darwin"),
            "the C library has no mallopt, mallinfo2, malloc_trim, as glibc has since 2.33",
        ),
        (
            "allocator",
            library("mallopt", "malloc_trim"),
            "the C library has no mallinfo2, as glibc has since 2.33",
        ),
        ("garbage", missing(gc, "freeze"), "CPython has no gc.freeze"),
    ],
)
def test_what_cannot_be_done_here_says_why(
    monkeypatch: pytest.MonkeyPatch, name: Tuning, how: Callable[[pytest.MonkeyPatch], None], why: str
) -> None:
    with monkeypatch.context() as here:
        how(here)
        found = tuned(name)
    assert found.active == ()
    assert dict(found.inactive) == dict.fromkeys(NAMES, "--tuning leaves it out") | {name: why}


def test_no_time_to_look_is_a_reason() -> None:
    assert tuned("busy-poll", busy_poll_us=0).inactive["busy-poll"] == "busy_poll_us is 0"


def test_who_has_told_grpc_the_same_need_not_tell_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_EXPERIMENTS", "-event_engine_listener")
    assert tuned("grpc-poller").active == ("grpc-poller",)


@pytest.mark.parametrize("version", ["1.86.0", "1.8.5", "2.85.1", "1.84.9rc1"])
def test_another_grpc_than_was_tried_is_left_alone_unless_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    # What gRPC reads is there, and nothing is done to the process of the tests.
    monkeypatch.setenv("GRPC_EXPERIMENTS", "-event_engine_listener")
    monkeypatch.setattr(metadata, "version", lambda _name: version)
    why = f"it was tried with grpcio 1.85, and this is {version}; --tuning can ask for it by name"
    found = tuned("-switch-interval,-allocator,-protobuf-trim,-garbage,-prompt-writer")
    assert found.active == ("busy-poll",)
    assert {name: found.inactive[name] for name in ("grpc-poller", "grpc-reader")} == {
        "grpc-poller": why,
        "grpc-reader": why,
    }
    assert tuned("grpc-poller,grpc-reader").active == ("grpc-poller", "grpc-reader")


@pytest.mark.parametrize("version", ["1.85.0", "1.85.17"])
def test_every_patch_of_the_grpc_that_was_tried_will_do(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(metadata, "version", lambda _name: version)
    assert tuned("-switch-interval,-allocator,-protobuf-trim,-grpc-poller").active == (
        "grpc-reader",
        "busy-poll",
        "garbage",
        "prompt-writer",
    )


# ---- gRPC's own lines ----------------------------------------------------------------------------


def test_grpc_is_silent_unless_it_was_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRPC_VERBOSITY")
    assert not grpc_is_silent()
    tuned("none")
    assert grpc_is_silent()
    monkeypatch.setenv("GRPC_VERBOSITY", "DEBUG")
    tuned("none")
    assert (os.environ["GRPC_VERBOSITY"], grpc_is_silent()) == ("DEBUG", False)

"""A folder of models that several workers serve."""

import os
import re
import signal
from pathlib import Path

import grpc
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1 import gatestream_pb2_grpc as pb_grpc
from tests.support.process import serving
from tests.support.repository import control, listed, load, put, put_broken, states, unload
from tests.support.scrape import HTTP, address, get
from tests.support.wire import call_refused, until
from tests.support.workers import process_of, started, streams_on_both


def test_all_workers_do_it(models: Path) -> None:
    put(models, "m", 1, initial=1000)
    with serving(models=models, model_control=True, workers=2) as server, control(server) as stub:
        with streams_on_both(server) as both:
            for handle, stream in enumerate(both):
                stream.opened(handle, f"of-{handle}", model="m")
                assert stream.stepped(handle, [1, 1])[0, 0] == 1001
            put(models, "m", 2, initial=2000)
            answer = load(stub, "m", migrate=True)
            assert (answer.model.version, answer.model.sessions, answer.migrated) == ("2", 2, 2)
            for handle, stream in enumerate(both):
                assert stream.stepped(handle, [1, 1])[0, 0] == 1002
                stub_here = pb_grpc.ModelControlStub(stream.channel)
                assert [(key, each.sessions) for key, each in listed(stub_here).items()] == [
                    (("m", "1"), 0),
                    (("m", "2"), 2),
                ]
            # A session that was moved is still this worker's alone, and its name is free when it ends.
            here, there = both
            there.open(6, "of-0", model="m")
            assert there.refused().reason == pb.REASON_SESSION_ELSEWHERE
            here.close(0)
            here.expect("closed")
            assert there.opened(6, "of-0", model="m").created
            for stream in both:
                assert stream.opened(7, model="m").version == "2"
            unload(stub, "m", "1")
            for stream in both:
                until(
                    lambda stream=stream: states(pb_grpc.ModelControlStub(stream.channel))["m", "1"] == "UNLOADED",  # type: ignore[misc]
                    "all workers unloaded it",
                )
            put_broken(models, "m", 3)
            with call_refused(grpc.StatusCode.FAILED_PRECONDITION, pb.REASON_MODEL_NOT_LOADED, "m/3/model.onnx"):
                load(stub, "m")
            found = {pb_grpc.ModelControlStub(stream.channel): None for stream in both}
            assert len({tuple(sorted(states(each).items())) for each in found}) == 1
        assert server.terminate() == 0


def test_what_workers_cannot_serve_is_on_the_page_of_readiness(models: Path) -> None:
    put(models, "m", 1)
    put_broken(models, "broken", 1)
    with serving(models=models, model_control=True, workers=2, **HTTP) as server:

        def not_served() -> list[str]:
            status, _, body = get(address(server), "/readyz")
            first, *lines = body.decode().splitlines()
            assert (status, first) == (200, "ready")
            return lines

        [line] = not_served()
        assert line.startswith("not served: broken/1: broken/1/model.onnx: ")
        put(models, "broken", 1)
        with control(server) as stub:
            load(stub, "broken")
            until(lambda: not not_served(), "what is served is not on the page")
            put_broken(models, "m", 2)
            with pytest.raises(grpc.RpcError):
                load(stub, "m")
            # The one that is asked loads first.
            [line] = not_served()
            assert re.match(r"not served: worker [12]: m/2: m/2/model.onnx: ", line)
        assert server.terminate() == 0


def test_a_worker_that_is_started_anew_serves_what_the_others_do(models: Path) -> None:
    put(models, "m", 1, initial=1000)
    put(models, "m", 2, initial=2000)
    put(models, "other", 1)
    with serving(models=models, model_control=True, workers=2) as server, control(server) as stub:
        load(stub, "m", "1")
        unload(stub, "other", deadline_s=0)
        until(lambda: states(stub)["other", "1"] == "UNLOADED", "it was unloaded")
        # Not what it would load by itself.
        put(models, "m", 3, initial=3000)
        os.kill(process_of(server, 2), signal.SIGKILL)
        started(server, 2, times=2)
        expected = {("m", "1"): "READY", ("m", "2"): "READY", ("m", "3"): "UNLOADED", ("other", "1"): "UNLOADED"}
        with streams_on_both(server) as both:
            for stream in both:
                assert states(pb_grpc.ModelControlStub(stream.channel)) == expected
                assert stream.opened(5, model="m").version == "2"
                assert stream.opened(6, model="m", version="1").version == "1"
        assert server.terminate() == 0


def test_every_worker_watches_the_folder(models: Path) -> None:
    put(models, "m", 1, initial=1000)
    with serving(models=models, watch_models=0.1, workers=2) as server, control(server) as stub:
        put(models, "m", 2, initial=2000)
        until(lambda: states(stub)["m", "2"] == "READY", "all workers have loaded it")
        with streams_on_both(server) as both:
            assert [stream.opened(5, model="m").version for stream in both] == ["2", "2"]
        assert server.terminate() == 0

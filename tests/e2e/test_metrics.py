"""Real servers, really scraped: what clients did is what Prometheus reads, of one process and of several."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import open_inference_grpc_pb2_grpc as oip_grpc
from tests.support.artifacts import POISON
from tests.support.open_inference import request
from tests.support.process import ServerProcess, serving
from tests.support.scrape import HTTP, Metrics, address, get, scrape
from tests.support.wire import PATIENCE, Stream, bearer, until
from tests.support.workers import lines, process_of, started, streams_with_numbers

MODEL = "accumulator"


@pytest.fixture(scope="module")
def server(accumulator_path: Path) -> Iterator[ServerProcess]:
    with serving(accumulator_path, **HTTP, sessions=4) as running:
        yield running
        assert running.popen.poll() is None


def gained(after: Metrics, before: Metrics) -> Metrics:
    """The counters that went up, by how much."""
    return {
        key: value - before.get(key, 0)
        for key, value in after.items()
        if key[0].endswith("_total") and value != before.get(key, 0)
    }


def runs(metrics: Metrics) -> float:
    return sum(value for key, value in metrics.items() if key[0] == "gatestream_runs_total")


def test_a_server_that_nobody_has_used(accumulator_path: Path) -> None:
    """What it has sent itself to warm up is not counted."""
    with serving(accumulator_path, **HTTP) as server:
        got = scrape(server)
        assert {key: value for key, value in got.items() if key[0].endswith("_total") and value} == {}
        assert got["gatestream_model_info", MODEL, "CPUExecutionProvider", "1"] == 1
        assert got["gatestream_sessions_limit", MODEL] == 10_000
        assert got["gatestream_processes",] == 1


def test_what_clients_did_is_what_is_counted(server: ServerProcess) -> None:
    before = scrape(server)
    with Stream(server.address) as stream:
        stream.opened(0)
        stream.opened(1)
        for _ in range(3):
            stream.stepped(0, [[1, 2]])
        stream.steps({0: [[1, 1]], 1: [[1, 1], [2, 2]]})
        stream.results({0: 1, 1: 2}, 2)
        door = oip_grpc.GRPCInferenceServiceStub(stream.channel)
        door.ModelInfer(request([[1, 1]], 5, start=True), timeout=PATIENCE)
        there = scrape(server)
        assert [there["gatestream_sessions", MODEL, state] for state in ("attached", "detached", "sequence")] == [
            2,
            0,
            1,
        ]
        assert there["gatestream_state_bytes", MODEL] == 3 * 2 * 4
        assert there["gatestream_streams", "gatestream"] == 1
        assert there["gatestream_rows_pending", MODEL] == 0
        door.ModelInfer(request([[1, 1]], 5, end=True), timeout=PATIENCE)
        stream.close(0)
        stream.expect("closed")
        stream.half_close()
        stream.expect("closed")
        assert stream.status()[0] == grpc.StatusCode.OK
    until(lambda: scrape(server)["gatestream_streams", "gatestream"] == 0, "the stream was closed")
    after = scrape(server)
    counted = gained(after, before)
    places = {key: counted.pop(key) for key in list(counted) if key[0] == "gatestream_runs_total"}
    assert counted == {
        ("gatestream_steps_total", MODEL): 8,
        ("gatestream_sessions_opened_total", MODEL): 3,
        ("gatestream_sessions_ended_total", MODEL, "REQUESTED"): 3,
        ("gatestream_streams_opened_total", "gatestream"): 1,
        ("gatestream_streams_ended_total", "OK", "gatestream"): 1,
        ("gatestream_messages_received_total", "gatestream"): 7,
        ("gatestream_calls_total", "/inference.GRPCInferenceService/ModelInfer"): 2,
        ("gatestream_messages_sent_total", "gatestream"): 2 + 3 + counted_results(after, before) + 2,
    }
    assert sum(places.values()) == runs(after) - runs(before)
    for name in ("run_seconds", "queue_wait_seconds", "run_entries"):
        assert after[f"gatestream_{name}_count", MODEL] == runs(after)
    assert after["gatestream_step_seconds_count", MODEL] == after["gatestream_steps_total", MODEL]
    assert after["gatestream_step_seconds_sum", MODEL] > before["gatestream_step_seconds_sum", MODEL]


def counted_results(after: Metrics, before: Metrics) -> float:
    """Messages in which the two sessions' steps were answered: they come in as many as there were runs for them."""
    return runs(after) - runs(before) - 3 - 2


def test_refusals_by_code_and_reason(server: ServerProcess) -> None:
    before = scrape(server)
    with Stream(server.address) as stream:
        for handle in range(4):
            stream.opened(handle)
        stream.open(4)
        stream.refused()
        stream.steps({9: [[1, 1]]})
        stream.refused()
        stream.steps({0: [[float("nan"), 1]]})
        stream.refused()
        stream.steps({1: [[POISON, 1]]})
        stream.refused()
        with pytest.raises(grpc.RpcError):
            stream.calls.GetState(pb.GetStateRequest(session_id="nowhere"), timeout=PATIENCE)
        with pytest.raises(grpc.RpcError):
            oip_grpc.GRPCInferenceServiceStub(stream.channel).ModelInfer(request([[1, 1]], 77), timeout=PATIENCE)
        stream.half_close()
        stream.status()
    counted = gained(scrape(server), before)
    refusals = {key[1:]: value for key, value in counted.items() if key[0] == "gatestream_refusals_total"}
    assert refusals == {
        ("RESOURCE_EXHAUSTED", "SESSIONS_EXHAUSTED"): 1,
        ("NOT_FOUND", "HANDLE_UNKNOWN"): 1,
        ("INVALID_ARGUMENT", "NOT_FINITE"): 1,
        ("INTERNAL", "STEP_FAILED"): 1,
        ("NOT_FOUND", "SESSION_UNKNOWN"): 2,
    }
    assert counted["gatestream_runs_failed_total", MODEL] == 1
    assert ("gatestream_steps_total", MODEL) not in counted


def test_no_label_names_a_tenant_or_a_session(accumulator_path: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text('"sixteen-characters" = "secret-tenant"\n')
    tokens.chmod(0o600)
    with (
        serving(accumulator_path, **HTTP, tokens=tokens) as server,
        Stream(server.address, token="sixteen-characters") as stream,
    ):
        stream.opened(0, "secret-session")
        stream.stepped(0, [[1, 2]])
        with pytest.raises(grpc.RpcError):
            stream.calls.Describe(pb.DescribeRequest(), metadata=bearer("of-another-server"), timeout=PATIENCE)
        status, _, body = get(address(server), "/metrics")
        assert (status, b"secret" in body) == (200, False)
        assert scrape(server)["gatestream_refusals_total", "UNAUTHENTICATED", "UNSPECIFIED"] == 1


def test_health_pages_and_a_drain(accumulator_path: Path) -> None:
    with serving(accumulator_path, **HTTP, drain_seconds=10 * PATIENCE) as server:
        where = address(server)
        assert get(where, "/healthz")[::2] == (200, b"alive\n")
        assert get(where, "/readyz")[::2] == (200, b"ready\n")
        with Stream(server.address) as stream:
            stream.opened(0)
            server.popen.send_signal(signal.SIGTERM)
            stream.expect("going_away")
            assert get(where, "/readyz")[::2] == (503, b"draining\n")
            # Until the end there is something to see.
            assert get(where, "/healthz")[0] == 200
            assert scrape(server)["gatestream_sessions", MODEL, "attached"] == 1
            stream.close(0)
            stream.expect("closed")
        assert server.popen.wait(PATIENCE) == 0


def test_without_the_setting_nothing_listens(accumulator_path: Path) -> None:
    with serving(accumulator_path) as server:
        assert lines(server, "metrics and health over HTTP") == []


# ---- Several workers -----------------------------------------------------------------------------


def test_one_scrape_gives_all_workers_also_those_that_have_died(accumulator_path: Path) -> None:
    with serving(accumulator_path, **HTTP, workers=2, drain_seconds=10 * PATIENCE) as server:
        with streams_with_numbers(server) as streams:
            before = scrape(server)
            assert before["gatestream_processes",] == 2
            for number, stream in streams.items():
                stream.opened(0)
                for _ in range(number):
                    stream.stepped(0, [[1, 2]])
            there = scrape(server)
            assert gained(there, before)["gatestream_steps_total", MODEL] == 3
            assert there["gatestream_sessions", MODEL, "attached"] == 2
            assert there["gatestream_sessions_limit", MODEL] == 20_000
            # Of one that hangs, what it said before stands for it.
            os.kill(process_of(server, 1), signal.SIGSTOP)
            hanging = scrape(server)
            assert (gained(hanging, there), hanging["gatestream_processes",]) == ({}, 2)
            os.kill(process_of(server, 1), signal.SIGKILL)
            assert streams[1].status()[0] == grpc.StatusCode.UNAVAILABLE
            started(server, 1, times=2)
            after = scrape(server)
            # What it had has ended, what it did stays.
            assert gained(after, there) == {
                ("gatestream_worker_deaths_total",): 1,
                ("gatestream_sessions_ended_total", MODEL, "WORKER_DIED"): 1,
                ("gatestream_streams_ended_total", "UNAVAILABLE", "gatestream"): 1,
            }
            assert after["gatestream_sessions", MODEL, "attached"] == 1
            assert after["gatestream_processes",] == 2
            streams[2].stepped(0, [[1, 2]])
            assert gained(scrape(server), after)["gatestream_steps_total", MODEL] == 1
            where = address(server)
            assert get(where, "/readyz")[0] == 200
            server.popen.send_signal(signal.SIGTERM)
            streams[2].expect("going_away")
            assert get(where, "/readyz")[::2] == (503, b"draining\n")
            assert scrape(server)["gatestream_sessions", MODEL, "attached"] == 1
            streams[2].close(0)
            streams[2].expect("closed")
        assert server.popen.wait(PATIENCE) == 0

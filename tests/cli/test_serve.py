"""`gatestream serve`: where a setting comes from, and how a server that cannot start says so. Real processes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.gatestream.v1.gatestream_pb2_grpc import GatestreamStub
from gatestream.server.cpus import cpus_available
from tests.support.artifacts import accumulator
from tests.support.process import serving
from tests.support.zygote import SERVE, Zygote


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return accumulator(tmp_path_factory.mktemp("serve") / "accumulator.onnx")


def limits(artifact: Path, **flags: object) -> pb.Limits:
    with serving(artifact, **flags) as server, grpc.insecure_channel(server.address) as channel:
        return GatestreamStub(channel).Describe(pb.DescribeRequest()).limits


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "gatestream.toml"
    config.write_text("sessions = 20\nstreams = 21\nchunk_length = 22\n")
    monkeypatch.setenv("GATESTREAM_SESSIONS", "30")
    monkeypatch.setenv("GATESTREAM_STREAMS", "31")
    found = limits(artifact, config=config, sessions=40)
    assert (found.sessions, found.streams, found.chunk_length) == (40, 31, 22)
    assert found.idle_timeout_s == 3600


def test_artifacts_and_file_from_the_environment(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "gatestream.toml"
    config.write_text("idle_timeout = 7.5\n")
    monkeypatch.setenv("GATESTREAM_CONFIG", str(config))
    monkeypatch.setenv("GATESTREAM_ARTIFACTS", str(artifact))
    with serving() as server, grpc.insecure_channel(server.address) as channel:
        answer = GatestreamStub(channel).Describe(pb.DescribeRequest())
    assert [model.spec.name for model in answer.models] == ["accumulator"]
    assert answer.limits.idle_timeout_s == 7.5


@pytest.mark.parametrize(("text", "least"), [('threads = "auto"', 1), ("threads = 3", 3)])
def test_threads_are_recorded(artifact: Path, tmp_path: Path, text: str, least: int) -> None:
    config = tmp_path / "gatestream.toml"
    config.write_text(text)
    with serving(artifact, config=config) as server:
        (loaded,) = [line for line in map(json.loads, server.log.read_text().splitlines()) if line["event"] == "loaded"]
    assert loaded["threads"] >= least
    if cpus_available() > 1 and least == 1:
        # Microseconds of a step, by threads and rows.
        assert set(loaded["step_us"]) >= {"1", "2"}
        assert list(loaded["step_us"]["1"]) == ["1", "32", "128", "512"]
        assert str(loaded["threads"]) in loaded["step_us"]
    else:
        assert "step_us" not in loaded


def test_artifacts_from_the_file(artifact: Path, tmp_path: Path) -> None:
    config = tmp_path / "gatestream.toml"
    config.write_text(f'artifacts = ["{artifact}"]\n')
    with serving(config=config) as server, grpc.insecure_channel(server.address) as channel:
        assert len(GatestreamStub(channel).Describe(pb.DescribeRequest()).models) == 1


def test_a_server_leaves_nothing_in_its_home(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime keeps a device id there, and reports with it, unless it is told not to."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with serving(artifact):
        assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """For what is refused by no more than a look at the settings: two thirds of a second of imports each."""
    with Zygote(tmp_path_factory.mktemp("cwd"), SERVE) as zygote:
        yield zygote


def refused(*arguments: object, **environment: str) -> tuple[int, str]:
    """The exit code of a server that should not start, and what it says last."""
    done = subprocess.run(
        [sys.executable, "-m", "gatestream.cli", "serve", "--listen=127.0.0.1:0", "--provider=cpu"]
        + [str(item) for item in arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
    )
    return _said(done.returncode, done.stdout, done.stderr)


def refused_by(zygote: Zygote, *arguments: object) -> tuple[int, str]:
    """As `refused`."""
    done = zygote.run(["serve", "--listen=127.0.0.1:0", "--provider=cpu", *map(str, arguments)])
    assert done.status is not None
    return _said(done.status, done.out, done.err)


def _said(status: int, out: str, error: str) -> tuple[int, str]:
    assert "Traceback" not in error
    assert out == ""
    last = error.splitlines()[-1]
    assert last.startswith("Error: ")
    return status, last


def test_no_artifact() -> None:
    code, error = refused()
    assert code == 2
    assert "gatestream export" in error


def test_a_missing_artifact(tmp_path: Path) -> None:
    code, error = refused(tmp_path / "none.onnx")
    assert code == 1
    assert str(tmp_path / "none.onnx") in error


def test_a_file_that_is_no_artifact(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("not a model")
    code, error = refused(path)
    assert code == 1
    assert str(path) in error


def test_one_name_twice(artifact: Path) -> None:
    code, error = refused(artifact, artifact)
    assert code == 1
    assert "second model named 'accumulator'" in error


@pytest.mark.parametrize(
    ("flag", "code", "says"),
    [
        ("--sessions=0", 2, "sessions is 0; expected 1 to 10,000,000"),
        ("--sessions=many", 2, "'many' is not a valid integer"),
        ("--threads=0", 2, "threads is 0; expected 1 to 1,024"),
        ("--threads=all", 2, "'all' is not a valid integer"),
        ("--workers=0", 2, "workers is 0; expected 1 to 256"),
        ("--workers=two", 2, "'two' is not a valid integer"),
        ("--tuning=fast", 2, "tuning is 'fast'; expected all, none, or some of grpc-poller, grpc-reader, busy-poll, "),
        ("--provider=gpu", 2, "'gpu' is not one of 'auto', 'cpu', 'cuda'"),
        ("--listen=here", 2, "expected HOST:PORT"),
        ("--http-listen=here", 2, "http_listen is 'here'; expected HOST:PORT"),
        ("--http-listen=192.0.2.1:9090", 1, "http_listen is '192.0.2.1:9090', which cannot be listened on: "),
        ("--tls-cert=cert.pem", 2, "tls_cert and tls_key go together"),
        ("--tokens=none.toml", 1, "tokens: none.toml"),
        ("--store=foo", 2, "store is 'foo'; expected memory, sqlite:PATH"),
        ("--store=sqlite:none/x.db", 2, "there is no folder none"),
        ("--config=none.toml", 2, "'none.toml' does not exist"),
        ("--port-file=none/port", 1, "port_file: none/port cannot be written: No such file or directory"),
    ],
)
def test_a_flag_out_of_range(zygote: Zygote, artifact: Path, flag: str, code: int, says: str) -> None:
    found, error = refused_by(zygote, artifact, flag)
    assert says in error
    assert found == code


def test_an_environment_variable_out_of_range(artifact: Path) -> None:
    code, error = refused(artifact, GATESTREAM_THREADS="0")
    assert code == 2
    assert "threads is 0; expected 1 to 1,024" in error


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("sesions = 5", 2, "unknown settings sesions; known: adopt_cache, adopt_mib, adopt_seconds, artifacts"),
        ("sessions = 0", 2, "sessions is 0; expected 1 to 10,000,000"),
        ('sessions = "5"', 2, "sessions is '5'; expected a whole number"),
        ("threads = 2.5", 2, "threads is 2.5; expected a whole number, or auto"),
        ("threads = 0", 2, "threads is 0; expected 1 to 1,024"),
        ("sessions = 2.5", 2, "sessions is 2.5; expected a whole number"),
        ("idle_timeout = -1", 2, "idle_timeout is -1.0; expected 0 to 1,000,000,000"),
        ("idle_timeout = nan", 2, "idle_timeout is nan; expected 0 to 1,000,000,000"),
        ("idle_timeout = true", 2, "idle_timeout is True; expected a number"),
        ('idle_timeout = "5"', 2, "idle_timeout is '5'; expected a number"),
        ("tuning = false", 2, "tuning is False; expected a string"),
        ('tuning = "all,fast"', 2, "tuning is 'all,fast'; expected all, none, or some of grpc-poller, grpc-reader"),
        ("drain_seconds = inf", 2, "drain_seconds is inf; expected 0 to 86,400"),
        ("deterministic = 1", 2, "deterministic is 1; expected true or false"),
        ("tokens = 5", 2, "tokens is 5; expected a string"),
        ('artifacts = "model.onnx"', 2, "artifacts is 'model.onnx'; expected a list of strings"),
        ("sessions: 5", 2, "gatestream.toml"),
        ("sessions = " + 5000 * "9", 2, "gatestream.toml"),
        ("sessions = " + 20_000 * "[", 2, "gatestream.toml"),
    ],
)
def test_a_file_with_a_mistake(zygote: Zygote, artifact: Path, tmp_path: Path, text: str, code: int, says: str) -> None:
    config = tmp_path / "gatestream.toml"
    config.write_text(text)
    found, error = refused_by(zygote, artifact, f"--config={config}")
    assert says in error
    assert found == code


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_in_use(artifact: Path, workers: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, error = refused(artifact, f"--listen={address}", f"--workers={workers}")
    assert code == 1
    assert f"'{address}', which cannot be listened on" in error


@pytest.mark.parametrize("workers", [1, 2])
def test_cuda_that_cannot_be_had(artifact: Path, workers: int) -> None:
    code, error = refused(artifact, "--provider=cuda", f"--workers={workers}", CUDA_VISIBLE_DEVICES="")
    assert code == 1
    assert "CUDA" in error
    assert "gatestream[cuda]" in error


@pytest.mark.parametrize(
    ("workers", "says"),
    [(1, "RuntimeError: it is broken"), (2, "WorkerFault: worker 1: RuntimeError: it is broken")],
)
def test_a_fault_of_its_own(artifact: Path, tmp_path: Path, workers: int, says: str) -> None:
    # Python runs this at the start of every process.
    (tmp_path / "sitecustomize.py").write_text(
        "import gatestream.server.core.catalog as models\n"
        "def broken(*_):\n"
        "    raise RuntimeError('it is\\nbroken')\n"
        "models.build = broken\n"
    )
    code, error = refused(artifact, f"--workers={workers}", PYTHONPATH=str(tmp_path))
    assert code == 70
    assert error.replace("worker 2", "worker 1") == (
        f"Error: internal error: {says}; `gatestream --traceback ...` shows where"
    )


def test_an_artifact_that_no_worker_can_read(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("not a model")
    script = Path(sys.executable).with_name("gatestream")
    # A session of its own, so that all that it has started can be found.
    with subprocess.Popen(
        [script, "serve", path, "--listen=127.0.0.1:0", "--workers=2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as server:
        # Until the last process that could write there has ended.
        out, error = server.communicate(timeout=60)
    assert (server.returncode, out) == (1, "")
    *_, line = error.splitlines()
    assert line.startswith(f"Error: {path}: gatestream adopt: not an ONNX file: ")
    assert error.count("Error: ") == 1
    with pytest.raises(ProcessLookupError):
        os.killpg(server.pid, 0)

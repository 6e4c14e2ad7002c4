"""Clients that were made for other servers of the Open Inference Protocol, each with a protobuf of its own.

`make test-clients` makes their environments, in .venv-clients. Their numbers are compared with the equations in NumPy.
"""

import platform
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gatestream.protos.inference import open_inference_grpc_pb2 as oip
from tests.support.lstm import Lstm
from tests.support.process import ServerProcess, serving

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "scripts"
TOKEN = "of-sixteen-characters"
LSTM = Lstm.random()
SEQUENCES, STEPS = 6, 12
Outputs = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("clients")
    tokens = folder / "tokens"
    tokens.write_text(f'"{TOKEN}" = "mine"\n')
    tokens.chmod(0o600)
    with serving(LSTM.save(folder / "lstm.onnx"), tokens=tokens) as running:
        yield running


@pytest.fixture(scope="module")
def xs() -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).normal(0, 1, (SEQUENCES, STEPS, LSTM.features)).astype(np.float32)


def venv(name: str) -> Path:
    folder = ROOT / ".venv-clients" / name / "bin"
    assert folder.exists(), f"{folder} is not there: make test-clients"
    return folder


def run(client: str, script: str, server: ServerProcess, xs: npt.NDArray[np.float32], folder: Path) -> Outputs:
    """What a client got for these inputs."""
    np.save(folder / "inputs.npy", xs)
    outputs = folder / "outputs.npz"
    done = subprocess.run(
        [venv(client) / "python", SCRIPTS / script, server.address, TOKEN, folder / "inputs.npy", outputs],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    with np.load(outputs) as archive:
        return {name: archive[name] for name in archive.files}


def check(got: Outputs, xs: npt.NDArray[np.float32]) -> None:
    """Compare every output with the equations, by what the scripts call it."""
    expected = [LSTM.run(x) for x in xs]
    assert got
    for name, values in got.items():
        kind, *which = name.split("_")
        if kind == "whole":
            right = expected[0][0]
        elif kind == "gate":
            right = expected[0][0] if which == ["y"] else expected[0][1][which[0]]
        elif kind == "async":
            right = expected[int(which[0])][0]
        else:
            assert kind in ("step", "stream")
            right = expected[int(which[0])][0][int(which[1])]
        assert values.dtype == np.float32
        np.testing.assert_allclose(values.reshape(right.shape), right, atol=1e-5, err_msg=name)


def test_tritonclient(server: ServerProcess, xs: npt.NDArray[np.float32], tmp_path: Path) -> None:
    got = run("triton", "triton.py", server, xs, tmp_path)
    fields = {name: said for name, *said in got.pop("fields").tolist()}
    check(got, xs)
    assert len(got) == 1 + 3 + 3 * STEPS + SEQUENCES + SEQUENCES * STEPS
    ours = dict(_fields(oip.DESCRIPTOR.message_types_by_name.values()))
    assert len(ours) > 100
    assert ours == {name: fields.get(name) for name in ours}, "the messages of the two are the same"


def _fields(messages: Iterable[Any]) -> Iterator[tuple[str, list[str]]]:
    for message in messages:
        for item in message.fields:
            yield item.full_name, [str(item.number), str(item.type), str(item.is_repeated)]
        yield from _fields(message.nested_types)


def test_tritonclient_aio(server: ServerProcess, xs: npt.NDArray[np.float32], tmp_path: Path) -> None:
    got = run("triton", "triton_aio.py", server, xs, tmp_path)
    check(got, xs)
    assert len(got) == SEQUENCES + SEQUENCES * STEPS


def test_kserve(server: ServerProcess, xs: npt.NDArray[np.float32], tmp_path: Path) -> None:
    got = run("kserve", "kserve_grpc.py", server, xs, tmp_path)
    check(got, xs)
    assert len(got) == SEQUENCES + 2 + STEPS


@pytest.mark.parametrize("streaming", [False, True])
def test_perf_analyzer(server: ServerProcess, streaming: bool) -> None:
    glibc = platform.libc_ver()[1]
    if tuple(map(int, glibc.split("."))) < (2, 38):
        pytest.skip(f"perf_analyzer's wheel wants glibc 2.38; this machine has {glibc}")
    done = subprocess.run(
        [
            venv("perf-analyzer") / "perf_analyzer",
            *("-m", "lstm", "-i", "grpc", "-u", server.address, "-H", f"authorization: Bearer {TOKEN}"),
            *("--shape", f"x:4,{LSTM.features}", "--sequence-length", "8", "--measurement-mode", "count_windows"),
            *("--measurement-request-count", "50", "--concurrency-range", "2"),
            *(["--streaming"] if streaming else []),
        ],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Throughput" in done.stdout

"""The example client in Node, made from the .proto file alone, gets the numbers that Python gets."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from gatestream.export.exporter import export
from tests.export.networks import TOKENS, random
from tests.support.any_models import WINDOW, Windowed, two_of_each, with_constants
from tests.support.lstm import GATES, Lstm
from tests.support.process import ServerProcess, serving
from tests.support.traces import traced_once

EXAMPLE = Path(__file__).parents[2] / "examples" / "node"
NODE, NPM = shutil.which("node"), shutil.which("npm")

pytestmark = [
    pytest.mark.skipif(not (NODE and NPM), reason="needs node and npm, which gatestream itself does not"),
    # The first run installs two packages.
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `gatestream export` makes of a network over tokens."""
    path = tmp_path_factory.mktemp("artifacts") / "tokens.onnx"
    with traced_once(tmp_path_factory, TOKENS.name):
        export(random(TOKENS), path, "gates")
    return path


@pytest.fixture(scope="module")
def server(artifact: Path) -> Iterator[ServerProcess]:
    others = (
        Lstm.random().save(artifact.with_name("lstm.onnx")),
        Windowed().save(artifact.with_name("windowed.onnx")),
        two_of_each(artifact.with_name("two.onnx")),
        with_constants(artifact.with_name("speaker.onnx")),
    )
    with serving(artifact, *others) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """The example's packages, as its lock file has them; in node_modules, which git ignores."""
    lock, done = EXAMPLE / "package-lock.json", EXAMPLE / "node_modules" / ".package-lock.json"
    if done.exists() and done.stat().st_mtime >= lock.stat().st_mtime:
        return
    command = [str(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    subprocess.run(command, cwd=EXAMPLE, check=True, timeout=240)


def node(server: ServerProcess, rows: Any, model: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "rows.json"
    path.write_text(json.dumps(rows))
    command = [str(NODE), str(EXAMPLE / "client.js"), server.address, str(path), model]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def answers(server: ServerProcess, rows: Any, model: str, folder: Path) -> list[Any]:
    done = node(server, rows, model, folder)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_tokens_through_an_exported_network(server: ServerProcess, artifact: Path, tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, len(TOKENS.vocabulary), 200)
    runtime = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    state = np.zeros((1, TOKENS.layers, TOKENS.hidden), np.float32)
    inputs = {"x": tokens[None], "length": np.array([200], np.int32), "h": state, "c": state}
    names = ["y", *GATES]
    expected = dict(zip(names, runtime.run(names, inputs), strict=True))
    got = answers(server, tokens.tolist(), "tokens", tmp_path)
    assert [step["position"] for step in got] == list(range(200))
    np.testing.assert_allclose([step["y"] for step in got], expected["y"][0], atol=1e-5)
    for symbol, name in GATES.items():
        flat = [step["gates"][name] for step in got]
        np.testing.assert_allclose(flat, expected[symbol][0].reshape(200, -1), atol=1e-5)


def test_numbers_and_numpy(server: ServerProcess, tmp_path: Path) -> None:
    xs = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    ys, gates = Lstm.random().run(xs)
    got = answers(server, xs.tolist(), "lstm", tmp_path)
    np.testing.assert_allclose([step["y"] for step in got], ys, atol=1e-5)
    for symbol, name in GATES.items():
        np.testing.assert_allclose([step["gates"][name] for step in got], gates[symbol], atol=1e-5)


def test_windows_of_int16(server: ServerProcess, tmp_path: Path) -> None:
    audio = np.random.default_rng(2).integers(-(2**15), 2**15, (12, WINDOW))
    got = answers(server, audio.tolist(), "windowed", tmp_path)
    np.testing.assert_allclose([step["y"] for step in got], Windowed().scores(audio), atol=1e-5)


def test_a_file_of_one_row(server: ServerProcess, tmp_path: Path) -> None:
    ys, _ = Lstm.random().run(np.ones((1, 3), np.float32))
    (got,) = answers(server, [[1, 1, 1]], "lstm", tmp_path)
    assert got["position"] == 0
    np.testing.assert_allclose(got["y"], ys[0], atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "model", "message"),
    [
        ([0], "nobody", "Error: 5 NOT_FOUND: no model 'nobody' here"),
        ([0, 1.5], "tokens", "Error: row 1: 1.5 came; a whole number was expected"),
        ([0, -1], "tokens", "Error: row 1: -1 came; 0 to 4 was expected"),
        ([[1, 2, 3], [1, None, 3]], "lstm", "Error: row 1, column 1: null came; a number was expected"),
        ([[1, 2, 3], [1, True, 3]], "lstm", "Error: row 1, column 1: true came; a number was expected"),
        ([[1, 2, 3], [1, "2", 3]], "lstm", 'Error: row 1, column 1: "2" came; a number was expected'),
        ([[1, 2, 1e39]], "lstm", "Error: row 0, column 2: 1e+39 came; a finite float32 number was expected"),
        ([[1, 2, 3], [1, 2]], "lstm", "Error: row 1: [1,2] came; an array of 3 was expected"),
        ([1, 2, 3], "lstm", "Error: row 0: 1 came; an array of 3 was expected"),
        ([[1, float("nan"), 3]], "lstm", "Error: "),
        ([[2**15] * WINDOW], "windowed", "Error: row 0, column 0: 32768 came; -32768 to 32767 was expected"),
        ([[1, 2, 3]], "two", "Error: two has 2 inputs; this client steps one"),
        ([[1, 2, 3]], "speaker", "Error: speaker needs constants at Open"),
        ([], "lstm", "Error: an array of one row or more was expected"),
        ([[1, 2, 3]], "", "Error: name one of the models: "),
    ],
)
def test_a_refusal_is_said_in_one_line(
    server: ServerProcess, rows: Any, model: str, message: str, tmp_path: Path
) -> None:
    done = node(server, rows, model, tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1

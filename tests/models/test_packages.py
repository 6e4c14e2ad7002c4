"""Every model of the packages: adopted as it should be or refused, its numbers those of the original; and served.

`make test-models` makes their environment, in .venv-models.
"""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gatestream.client import connect
from gatestream.export.adopting.adopt import adopt
from gatestream.export.drawing.findings import Findings, look
from gatestream.export.errors import ArtifactError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.export.adopting.found import check_found
from tests.models.catalogue import NotInstalledError, entries
from tests.models.modules import MODULES, Module
from tests.support.process import serving
from tests.support.strangers.adopted import Adopted
from tests.support.strangers.comparison import TOLERANCE, differences
from tests.support.strangers.options import options
from tests.support.strangers.oracle import Oracle
from tests.support.strangers.stranger import Stranger

pytestmark = pytest.mark.slow

try:
    STRANGERS = {entry.name: entry.stranger for entry in entries()}
except NotInstalledError as error:
    pytest.skip(str(error), allow_module_level=True)

ADOPTED = [name for name, stranger in STRANGERS.items() if not stranger.refused]
REFUSED = [name for name, stranger in STRANGERS.items() if stranger.refused]


@pytest.mark.parametrize("name", ADOPTED)
def test_a_file_is_adopted_and_its_numbers_are_the_originals(name: str, tmp_path: Path) -> None:
    stranger = STRANGERS[name]
    artifact = tmp_path / "adopted.onnx"
    adopt(stranger.path, artifact, options(stranger))
    check_found(stranger, Adopted(artifact).spec)
    assert {case: off for case, off in differences(stranger, artifact).items() if off > TOLERANCE} == {}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_is_refused(name: str, tmp_path: Path) -> None:
    stranger = STRANGERS[name]
    with pytest.raises(ArtifactError) as caught:
        adopt(stranger.path, tmp_path / "adopted.onnx", options(stranger))
    assert re.search(stranger.refused, str(caught.value))
    assert not (tmp_path / "adopted.onnx").exists()


@pytest.mark.parametrize("name", REFUSED)
def test_served_anyway_it_would_have_given_wrong_numbers(name: str) -> None:
    """What a run gives of its steps, and what it gives of the first of them: a stream knows no more."""
    stranger = STRANGERS[name]
    oracle = Oracle(stranger)
    xs = oracle.sample(12, 0)
    whole, part = oracle.run(xs), oracle.run({key: x[:8] for key, x in xs.items()})
    assert max(float(np.abs(whole[key][:8] - part[key]).max()) for key in whole) > 0.05 or (
        # Nothing comes from later steps, but the second half does not go on from the first.
        max(float(np.abs(whole[key][8:] - oracle.run({k: x[8:] for k, x in xs.items()})[key]).max()) for key in whole)
        > 0.05
    )


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_a_module(module: Module, tmp_path: Path) -> None:
    artifact = tmp_path / "exported.onnx"
    if module.refused:
        with pytest.raises(ArtifactError, match=module.refused):
            module.export(artifact)
        assert not artifact.exists()
    else:
        module.export(artifact)
        assert {case: off for case, off in module.differences(artifact).items() if off > TOLERANCE} == {}


@pytest.mark.parametrize("name", ["silero_16000", "akiki", "flashvad", "deepfilternet_erb_dec"])
def test_gates_of_a_file_are_shown_and_its_numbers_stay(name: str, tmp_path: Path) -> None:
    """`gatestream inspect` finds them in what was made, as it does in any file."""
    stranger = STRANGERS[name]
    artifact = tmp_path / "gates.onnx"
    made = adopt(stranger.path, artifact, replace(options(stranger), form="gates"))
    kinds = {pb.CELL_KIND_LSTM: ["input", "forget", "candidate", "output"]}
    expected = [each for cell in made.spec.cells for each in kinds.get(cell.kind, ["reset", "update", "candidate"])]
    assert [gate.name.rpartition(".")[2] for gate in made.spec.gates] == expected
    assert {case: off for case, off in differences(stranger, artifact).items() if off > TOLERANCE} == {}
    found = look(artifact)
    assert isinstance(found, Findings)
    assert found.checks
    assert all(check.passed for check in found.checks)


def test_a_cell_that_a_file_has_unrolled_becomes_an_operator(tmp_path: Path) -> None:
    stranger = STRANGERS["silero_ifless_16000"]
    artifact = tmp_path / "fused.onnx"
    made = adopt(stranger.path, artifact, replace(options(stranger), form="fused"))
    assert [each.kind for each in made.spec.cells] == [pb.CELL_KIND_LSTM]
    assert any("written out, to the operator" in line for line in made.spec.source.rewritten)
    assert {case: off for case, off in differences(stranger, artifact).items() if off > TOLERANCE} == {}


# ---- Served -----------------------------------------------------------------------------------

SESSIONS, STEPS = 64, 6


def flags(stranger: Stranger) -> list[str]:
    """What the command has to be told."""
    told = {"constant": ("=", stranger.fixed), "window": (":", stranger.windows), "context": (":", stranger.context)}
    return [f"--{flag}={name}{mark}{value}" for flag, (mark, values) in told.items() for name, value in values.items()]


@pytest.mark.parametrize("name", ["silero_16000", "akiki", "flashvad"])
def test_a_file_is_served_and_64_sessions_at_once_are_each_as_if_alone(name: str, tmp_path: Path) -> None:
    """What has to be told anything is adopted first; the rest is served as it came."""
    stranger = STRANGERS[name]
    file = stranger.path
    if told := flags(stranger):
        file = tmp_path / "adopted.onnx"
        gatestream("adopt", stranger.path, "-o", file, *told)
    oracle = Oracle(stranger)
    column, output = stranger.inputs[0].name, stranger.outputs[0].name
    xs = [oracle.sample(STEPS, seed)[column] for seed in range(SESSIONS)]
    with serving(file) as server, connect(server.address) as gs:
        (model,) = gs.models
        with gs.session(model) as session:
            alone = np.stack([session.step(x) for x in xs[0]])
        with gs.group(model, SESSIONS) as group:
            together = np.stack([group.step(np.stack([x[t] for x in xs])) for t in range(STEPS)], 1)
    np.testing.assert_array_equal(together[0], alone)
    for row in (0, 1, SESSIONS - 1):
        np.testing.assert_allclose(together[row], oracle.run({column: xs[row]})[output], atol=TOLERANCE)


def test_the_command_prints_what_it_found(tmp_path: Path) -> None:
    stranger = STRANGERS["silero_16000"]
    said = gatestream("adopt", stranger.path, "-o", tmp_path / "m.onnx", *flags(stranger))
    for word in ("state -> stateN", "[2, ?, 128]", "sr", "input", "a window of 512", "the last 64 samples", "proved"):
        assert word in said


def gatestream(*arguments: object) -> str:
    """Run the command; what it printed."""
    command = [str(Path(sys.executable).parent / "gatestream"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout

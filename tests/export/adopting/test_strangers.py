"""Files in the styles of every exporter, adopted and compared with the file as it came, run by its own convention."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from gatestream.export.adopting.adopt import adopt
from gatestream.export.adopting.options import Options
from gatestream.export.errors import ArtifactError, StatelessError
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.export.adopting.found import check_found
from tests.support.once import once
from tests.support.strangers.adopted import Adopted
from tests.support.strangers.comparison import TOLERANCE, differences
from tests.support.strangers.exported import ALL, FROZEN, QUICK, Case, export, module_of
from tests.support.strangers.generators import ADOPTED, REFUSED
from tests.support.strangers.graph import Graph
from tests.support.strangers.options import options
from tests.support.strangers.oracle import Oracle
from tests.support.strangers.stranger import State, Stranger


def check(stranger: Stranger, folder: Path) -> None:
    artifact = folder / "adopted.onnx"
    adopt(stranger.path, artifact, options(stranger))
    spec = Adopted(artifact).spec
    check_found(stranger, spec)
    bound = 2e-3 if any(each.dtype == pb.DATA_TYPE_FLOAT16 for each in spec.outputs) else TOLERANCE
    found = differences(stranger, artifact)
    assert {case: off for case, off in found.items() if off > bound} == {}


@pytest.mark.parametrize("name", ADOPTED)
def test_a_file_written_by_hand(name: str, tmp_path: Path) -> None:
    check(ADOPTED[name](tmp_path), tmp_path)


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.name)
def test_a_file_of_torch(case: Case, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    check(once(tmp_path_factory, case.name, lambda folder: export(case, folder)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in ALL if case not in QUICK], ids=lambda case: case.name)
def test_more_files_of_torch(case: Case, tmp_path: Path) -> None:
    check(export(case, tmp_path), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", FROZEN, ids=lambda case: case.name)
def test_time_that_torch_froze_is_found(case: Case, tmp_path: Path) -> None:
    """It was told that time is dynamic; eight steps in, four come out."""
    stranger = export(case, tmp_path)
    with pytest.raises(ArtifactError):
        adopt(stranger.path, tmp_path / "adopted.onnx", options(stranger))


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_streamed_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    stranger = REFUSED[name](tmp_path)
    artifact = tmp_path / "adopted.onnx"
    with pytest.raises(ArtifactError) as caught:
        adopt(stranger.path, artifact, options(stranger))
    assert re.search(stranger.refused, str(caught.value))
    assert "\n" not in str(caught.value)
    assert not artifact.exists()


# ---- What serving the refused ones anyway would have given -----------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("case", FROZEN, ids=lambda case: case.name)
def test_refused_since_it_begins_anew_every_four_steps(case: Case, tmp_path: Path) -> None:
    """Of eight steps the file gives the first four, and of the others other numbers than the module that it is of."""
    stranger = export(case, tmp_path)
    session = onnxruntime.InferenceSession(stranger.path)
    time = 1 if case.batch_first else 0
    x = torch.randn(2, 8, 3) if case.batch_first else torch.randn(8, 2, 3)
    with torch.no_grad():
        begin, end = module_of(case)(x).numpy().swapaxes(0, time)[:4], module_of(case)(x).numpy().swapaxes(0, time)[4:]
    found = [
        session.run(["y"], {"x": part.numpy()})[0].swapaxes(0, time) for part in (x, *torch.tensor_split(x, 2, time))
    ]
    assert len(found[0]) == 4
    np.testing.assert_allclose(found[1], begin, atol=1e-5)
    assert np.abs(found[2] - end).max() > 0.01


def test_refused_since_a_cell_that_shows_no_state_begins_anew(tmp_path: Path) -> None:
    """Without a state --stateless serves the file as it is: right where it is a network of one step, as `no_state`.

    Here it is a cell of which somebody exported one step from zeros: each step would be a first one.
    """
    g = Graph("first_step")
    x, y = g.input("x", ["batch", 3]), g.output("y", ["batch", 5])
    W, R = g.weight(3, 5), g.weight(5, 5)
    before = g.node("MatMul", g.constant(np.zeros((1, 5), np.float32)), R)
    g.node("Tanh", g.node("Add", g.node("MatMul", x, W), before), out=y)
    path = g.save(tmp_path)
    with pytest.raises(StatelessError, match="--state INPUT=OUTPUT"):
        adopt(path, tmp_path / "adopted.onnx")
    adopt(path, tmp_path / "adopted.onnx", Options(stateless=True))
    weights = {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
    steps = np.random.default_rng(0).standard_normal((6, 1, 3)).astype(np.float32)
    [served] = onnxruntime.InferenceSession(tmp_path / "adopted.onnx").run(None, {"x": steps.swapaxes(0, 1)})
    h = np.zeros((1, 5), np.float32)
    for t, step in enumerate(steps):
        h = np.tanh(step @ weights[W] + h @ weights[R])
        apart = np.abs(served[:, t] - h).max()
        assert apart < 1e-6 if t == 0 else apart > 0.01


@pytest.mark.parametrize("name", ["bidirectional", "padded_convolution"])
def test_refused_since_chunks_are_not_the_whole(name: str, tmp_path: Path) -> None:
    stranger = REFUSED[name](tmp_path)
    oracle = Oracle(stranger)
    xs = oracle.sample(12, 0)
    whole, stepped = (Oracle(each).run(xs)["y"] for each in (stranger, replace(stranger, whole=False)))
    assert np.abs(whole - stepped).max() > 0.01


def test_refused_since_steps_of_which_eight_make_a_run_mix(tmp_path: Path) -> None:
    """A step is none of eight: with nothing, or itself, in the others' places it gives other numbers."""
    stranger = REFUSED["frozen_steps"](tmp_path)
    oracle = Oracle(stranger)
    xs = oracle.sample(8, 0)
    whole = oracle.run(xs)["y"]
    for others in (np.zeros_like(xs["x"]), np.repeat(xs["x"][:1], 8, 0)):
        alone = np.concatenate([xs["x"][:1], others[1:]])
        assert np.abs(oracle.run({"x": alone})["y"][0] - whole[0]).max() > 0.01


def test_refused_since_the_other_pairing_gives_other_numbers(tmp_path: Path) -> None:
    stranger = REFUSED["swapped_on_purpose"](tmp_path)
    first, second = stranger.states
    crossed = State(first.input, second.output, 0), State(second.input, first.output, 0)
    xs = Oracle(stranger).sample(12, 0)
    one, other = (Oracle(each).run(xs)["y"] for each in (stranger, replace(stranger, states=crossed)))
    assert np.abs(one - other).max() > 0.1

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gatestream.model import checkpoint
from gatestream.model.checkpoint import CheckpointError, TrainingState
from gatestream.model.network import Network, NetworkConfig

CONFIG = NetworkConfig(
    name="n", task="t", encoder="linear", embedding=4, inputs=2, hidden=5, layers=2, outputs=2,
    columns=("a", "b"), input_mean=(1.0, 2.0), input_scale=(3.0, 0.1),
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "folder" / "n.safetensors"
    checkpoint.save(file, Network(CONFIG), TrainingState({"h": torch.arange(6.0)}, {"updates": 7, "deep": [[1]]}))
    return file


def rewrite(path: Path, drop: str = "", **add: torch.Tensor) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = {name: tensor for name, tensor in load_file(path).items() if name != drop} | add
    save_file(tensors, path, metadata)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    network = Network(CONFIG)
    checkpoint.save(tmp_path / "n", network, TrainingState({"h": torch.arange(6.0)}, {"updates": 7}))
    loaded = checkpoint.load(tmp_path / "n")
    assert loaded.network.config == CONFIG
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor)
    assert torch.equal(loaded.training.tensors["h"], torch.arange(6.0))
    assert loaded.training.values == {"updates": 7}


def test_a_network_that_was_not_trained_here_has_no_training_state(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "n", Network(CONFIG))
    assert checkpoint.load(tmp_path / "n").training == TrainingState()


def test_the_weights_are_named_after_their_gates(path: Path) -> None:
    assert load_file(path)["cells.1.forget_gate.R"].shape == (5, 5)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none: no such checkpoint; make one with `gatestream train`"):
        checkpoint.load(tmp_path / "none")


@pytest.mark.parametrize("kept", [0, 5, 500, -1])
def test_a_damaged_file(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="not a safetensors file, or a damaged one"):
        checkpoint.load(path)


def test_safetensors_of_something_else(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(CheckpointError, match="checkpoint format None, this version reads '1'"):
        checkpoint.load(tmp_path / "other")


def test_a_configuration_that_cannot_be_read(tmp_path: Path) -> None:
    metadata = {"gatestream.checkpoint": "1", "gatestream.config": '{"name": 1}', "gatestream.training": "{}"}
    save_file({"a": torch.zeros(1)}, tmp_path / "n", metadata)
    with pytest.raises(CheckpointError, match="its metadata cannot be read: fields are missing"):
        checkpoint.load(tmp_path / "n")


@pytest.mark.parametrize("text", ["3", "[" * 100_000, "[" + "9" * 5000 + "]"])
def test_json_that_is_no_configuration(tmp_path: Path, text: str) -> None:
    metadata = {"gatestream.checkpoint": "1", "gatestream.config": text, "gatestream.training": "{}"}
    save_file({"a": torch.zeros(1)}, tmp_path / "n", metadata)
    with pytest.raises(CheckpointError, match="its metadata cannot be read"):
        checkpoint.load(tmp_path / "n")


@pytest.mark.parametrize("field", ["inputs", "hidden", "outputs", "layers"])
@pytest.mark.parametrize("value", [10**6, 10**30, 2.5])
def test_a_size_that_the_tensors_cannot_fill_is_refused_before_anything_is_made(
    tmp_path: Path, field: str, value: float
) -> None:
    config = {"name": "m", "task": "t", "encoder": "none", "inputs": 1, "hidden": 1, "outputs": 1} | {field: value}
    metadata = {"gatestream.checkpoint": "1", "gatestream.config": json.dumps(config), "gatestream.training": "{}"}
    save_file({"a": torch.zeros(1000)}, tmp_path / "n", metadata)
    with pytest.raises(CheckpointError, match=rf"{field} is [\d.]+, but it has 1 tensors of 1000 numbers in all"):
        checkpoint.load(tmp_path / "n")


def test_a_width_whose_square_would_not_fit_is_refused_by_its_shapes(tmp_path: Path) -> None:
    config = {"name": "m", "task": "t", "encoder": "none", "inputs": 1, "hidden": 10**6, "outputs": 1}
    metadata = {"gatestream.checkpoint": "1", "gatestream.config": json.dumps(config), "gatestream.training": "{}"}
    save_file({"a": torch.zeros(10**6)}, tmp_path / "n", metadata)  # the weights of such a cell have 16 TB
    with pytest.raises(CheckpointError, match=r"missing cells\.0\.input_gate\.R"):
        checkpoint.load(tmp_path / "n")


def test_tensors_that_do_not_fit_are_all_listed(path: Path) -> None:
    rewrite(path, drop="cells.0.input_gate.b", extra=torch.zeros(1), **{"head.bias": torch.zeros(9)})
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(path)
    for text in ("missing cells.0.input_gate.b", "unexpected extra", "head.bias is [9], expected [2]"):
        assert text in str(error.value)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(path, Network(CONFIG))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_others_may_read_it_as_the_umask_says(path: Path) -> None:
    before = os.umask(0o022)
    try:
        checkpoint.save(path.with_name("other"), Network(CONFIG))
    finally:
        os.umask(before)
    assert path.with_name("other").stat().st_mode & 0o777 == 0o644

from pathlib import Path

import onnx
import pytest

from gatestream.export import artifact
from gatestream.export.errors import ArtifactError
from gatestream.export.exporter import weights_of
from gatestream.export.finder.finder import find
from gatestream.protos.spec import SpecError
from tests.export import networks
from tests.export.conftest import Exported


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file; make one with `gatestream export`"):
        artifact.load(tmp_path / "none.onnx")


@pytest.mark.parametrize("data", [b"PK\x03\x04 no onnx", b"\x00" * 100])
def test_a_file_that_is_no_onnx_model(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="not an ONNX model"):
        artifact.load(path)


def test_a_model_without_a_spec(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported("numbers", "fused")[0])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(SpecError, match="not a gatestream artifact"):
        artifact.load(tmp_path / "model.onnx")


def test_saving_what_was_loaded_changes_nothing(exported: Exported, tmp_path: Path) -> None:
    before = artifact.load(exported("numbers", "gates")[0])
    artifact.save(before.model, before.spec, tmp_path / "again.onnx")
    after = artifact.load(tmp_path / "again.onnx")
    assert after.spec == before.spec
    assert onnx.load(tmp_path / "again.onnx") == onnx.load(before.path)


@pytest.mark.parametrize("form", ["gates", "fused"])
@pytest.mark.parametrize("name", networks.ALL)
def test_weights_come_back_as_the_checkpoint_has_them(exported: Exported, name: str, form: str) -> None:
    model = artifact.load(exported(name, "gates" if form == "gates" else "fused")[0]).model
    found, expected = artifact.weights(model, find(model)), weights_of(networks.random(networks.ALL[name]))
    assert set(found) == set(expected)
    for parameter, array in expected.items():
        assert found[parameter].tobytes() == array.tobytes(), parameter


def test_nothing_of_the_machine_is_in_the_file(exported: Exported) -> None:
    """The exporter notes stack traces and module paths in what it makes."""
    data = exported("tokens", "gates")[0].read_bytes()
    assert b".py" not in data
    assert b"gatestream.model" not in data

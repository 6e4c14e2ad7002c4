"""The proof as a whole: its order, what it stops at, and what it reports."""

import json
from pathlib import Path

import onnx
import pytest

from gatestream.export.exporter import reference, weights_of
from gatestream.export.proof.comparison import DifferenceError
from gatestream.export.proof.report import Report, VerificationError
from gatestream.export.proof.verify import verify
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.weights import fingerprint
from tests.export import mutations, networks
from tests.export.conftest import Exported


def proof(path: Path, seed: int = 0) -> Report:
    network = networks.random(networks.NUMBERS, seed)
    return verify(path, weights_of(network), reference(network))


def test_another_checkpoints_file_is_refused(exported: Exported) -> None:
    """The file is sound in itself; it is only not this network."""
    report = proof(exported("numbers", "gates")[0], seed=1)
    assert [check.name for check in report.checks if check.passed] == ["model", "contract", "gates", "weights"]
    with pytest.raises(VerificationError, match=r"checkpoint: the checkpoint's weights hash to .*, the file's to "):
        report.raise_for_failure()


def test_what_follows_a_failed_check_is_not_made(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported("numbers", "gates")[0])
    mutations.operator("cells.0.g", "Sigmoid")(model)
    onnx.save(model, tmp_path / "model.onnx")
    report = proof(tmp_path / "model.onnx")
    assert [check.name for check in report.checks] == ["model", "contract", "gates"]
    assert not report.passed
    assert report.difference is None


def test_json_of_a_failure_names_tensor_step_and_size(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported("numbers", "gates")[0])
    mutations.squashed_output(model)
    onnx.save(model, tmp_path / "model.onnx")
    said = json.loads(proof(tmp_path / "model.onnx").to_json())
    assert said["passed"] is False
    assert said["checks"][-1]["name"] == "carried steps"
    difference = said["difference"]
    assert (difference["reference"], difference["tensor"], difference["step"]) == ("torch", "y", 0)
    assert abs(difference["found"] - difference["expected"]) > difference["tolerance"]


def test_json_of_a_proof_tells_exact_from_close(exported: Exported) -> None:
    said = json.loads(exported("numbers", "gates")[1].to_json())
    assert said["passed"] is True
    assert said["difference"] is None
    assert {figure["exact"] for figure in said["figures"]} <= {True, False}
    assert all(figure["max_abs_difference"] <= figure["tolerance"] for figure in said["figures"])
    assert said["weights_fingerprint"] == fingerprint(weights_of(networks.random(networks.NUMBERS)))


def test_spec_gets_the_worst_of_each_reference_and_tensor(exported: Exported) -> None:
    _, report = exported("numbers", "gates")
    for figure in report.parity():
        same = [f for f in report.figures if (f.reference, f.tensor) == (figure.reference, figure.tensor)]
        assert figure.max_abs_difference == max(f.max_abs_difference for f in same)
        assert figure.exact == all(f.exact for f in same)
        assert figure.steps == 1024


def test_a_wrong_reference_is_seen(exported: Exported) -> None:
    """The comparison is with what is given as the reference, not with the file itself."""
    right, wrong = networks.random(networks.NUMBERS), networks.random(networks.NUMBERS, seed=1)
    report = verify(exported("numbers", "fused")[0], weights_of(right), reference(wrong))
    assert report.checks[-1].detail.startswith("c differs from torch (each step), first at step 0,")
    assert isinstance(VerificationError(report), ValueError)
    assert not isinstance(VerificationError(report), DifferenceError)


def test_form_is_said_by_name() -> None:
    assert Report.of(pb.ModelSpec(form=pb.FORM_FUSED), []).form == "fused"

"""What is said and drawn of anybody's file."""

import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gatestream.export import artifact
from gatestream.export.drawing.draw import draw
from gatestream.export.drawing.findings import Findings, look
from gatestream.export.drawing.listing import as_json, as_text
from gatestream.export.errors import ArtifactError
from gatestream.export.proof import stream_checks
from gatestream.export.rewriting.reform import reform
from tests.support import recurrent
from tests.support.strangers.generators import ADOPTED, REFUSED

RNG = np.random.default_rng(0)
CELLS = [
    recurrent.random("LSTM", 3, 5, RNG, peepholes=True).with_options(clip=1.5),
    recurrent.random("GRU", 5, 2, RNG).with_options(linear_before_reset=True),
    recurrent.random("RNN", 2, 3, RNG),
    recurrent.random("LSTM", 3, 1, RNG).with_options(input_forget=True),
]


@pytest.fixture(scope="module", params=["gates", "fused"])
def findings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    original, spec = recurrent.streaming(CELLS)
    model = ir.from_proto(original)
    reform(model, spec, request.param)
    path = tmp_path_factory.mktemp("made") / "model.onnx"
    artifact.save(model, spec, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_checks, "_SECONDS", 0.2)
        found = look(path)
    assert isinstance(found, Findings)
    return found


def stranger(name: str, folder: Path) -> Findings:
    found = look(ADOPTED[name](folder).path)
    assert isinstance(found, Findings)
    return found


def test_cells_come_in_the_order_of_data(findings: Findings) -> None:
    assert [(cell.name, cell.kind) for cell in findings.cells] == [
        ("cell0", "LSTM"),
        ("cell1", "GRU"),
        ("cell2", "RNN"),
        ("cell3", "LSTM"),
    ]


def test_text(findings: Findings) -> None:
    text = as_text(findings)
    assert findings.spec is not None
    gates = bool(findings.spec.gates)
    for said in (
        f"form     {'gates' if gates else 'fused'}, contract 2, opset 20",
        "cell1_h -> cell1_h_next  float32  [batch, 2]  starts at 0",
        "c' = f * c + i * g, h' = o * tanh(c'), sums held within 1.5",
        "h' = (1 - z) * n + z * h, r applied behind the recurrent product",
        "c' = f * c + i * g, h' = o * tanh(c'), f = 1 - i",
        "h' = tanh(W x + R h + b)",
        "-> cell1.update" if gates else "inside the operator",
        "p cell0.forget_gate.p [5]" if gates else "p cell0.P[0, 10:15] [5]",
        "rows together",
    ):
        assert said in text, said
    assert all(line == line.rstrip() for line in text.splitlines())


def test_json(findings: Findings) -> None:
    said = as_json(findings)
    assert findings.spec is not None
    assert list(said["cells"][1]["gates"]) == ["r", "z", "n"]
    assert said["cells"][1]["gates"]["n"]["b_R"]["shape"] == [2]
    assert said["cells"][0]["gates"]["f"]["output"] == ("cell0.forget" if findings.spec.gates else "")
    assert said["checks"]["gates"]


def test_drawing_has_every_name_and_shape(findings: Findings) -> None:
    root = ET.fromstring(draw(findings))
    texts = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for cell in findings.cells:
        if cell.kind == "RNN":
            continue
        assert cell.name in texts
        assert cell.h_next is not None
        assert cell.h_next.name in texts
        for gate in cell.gates.values():
            for parameter, weight in gate.weights.items():
                assert f"{parameter} {weight} {list(weight.shape)}" in texts


def test_nothing_is_drawn_outside_the_image(findings: Findings) -> None:
    root = ET.fromstring(draw(findings))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        top = float(group.attrib["transform"].split()[1].rstrip(")"))
        for element in group:
            x, y = (float(element.attrib.get(name, 0)) for name in ("x", "y"))
            assert 0 <= x + float(element.attrib.get("width", 0)) <= width
            assert 0 <= top + y + float(element.attrib.get("height", 0)) <= height


def test_no_gate_lies_on_another(findings: Findings) -> None:
    root = ET.fromstring(draw(findings))
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        rects = [element.attrib for element in group.iter("{http://www.w3.org/2000/svg}rect")]
        spans = sorted((float(r["x"]), float(r["x"]) + float(r["width"])) for r in rects if float(r["y"]) == 180)
        assert all(before[1] < after[0] for before, after in pairwise(spans))


@pytest.mark.parametrize("name", ["gru_loop", "lstm_cell_unrolled", "sample_rate", "scan", "gru_two_layers"])
def test_a_stranger_s_file(name: str, tmp_path: Path) -> None:
    found = stranger(name, tmp_path)
    text = as_text(found)
    assert "no artifact; `gatestream adopt` makes one of it" in text
    assert ("data flow shows no LSTM, no GRU and no RNN" in text) == (not found.cells)
    assert as_json(found)["spec"] is None
    ET.fromstring(draw(found))


def test_a_stranger_s_unrolled_cell_has_its_gates(tmp_path: Path) -> None:
    text = as_text(stranger("gru_cell_unrolled", tmp_path))
    assert "equations\n  h' = (1 - z) * n + z * h, r applied behind the recurrent product" in text


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        look(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ArtifactError, match="not an ONNX model"):
        look(tmp_path / "text.onnx")
    with pytest.raises(ArtifactError, match="bidirectional: it reads what has not come yet"):
        look(REFUSED["bidirectional"](tmp_path).path)


def test_a_changed_weight_is_refused(findings: Findings, tmp_path: Path) -> None:
    model = onnx.load(findings.path)
    initializer = next(each for each in model.graph.initializer if each.data_type == onnx.TensorProto.FLOAT)
    array = onnx.numpy_helper.to_array(initializer) + 1
    initializer.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), initializer.name))
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(ArtifactError, match="its initializers hash to"):
        look(tmp_path / "changed.onnx")

"""What is said and drawn of a file."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from gatestream.export.drawing.draw import draw
from gatestream.export.drawing.inspection import Inspection, inspect
from gatestream.export.drawing.text import as_json, as_text
from gatestream.export.exporter import Form
from tests.export import networks
from tests.export.conftest import Exported

GATE_MODULES = {"i": "input_gate", "f": "forget_gate", "g": "cell_candidate", "o": "output_gate"}


@pytest.fixture(params=["gates", "fused"], scope="module")
def form(request: pytest.FixtureRequest) -> Form:
    return "gates" if request.param == "gates" else "fused"


@pytest.fixture(scope="module")
def inspection(exported: Exported, form: Form) -> Inspection:
    return inspect(exported("tokens", form)[0])


def test_every_network_holds_what_it_says(exported: Exported, form: Form) -> None:
    for name in networks.ALL:
        report = inspect(exported(name, form)[0]).report
        assert report.passed
        assert [check.name for check in report.checks] == [
            "model",
            "contract",
            "gates",
            "weights",
            "carried steps",
            "rows of unlike length",
        ]


def test_structure_names_what_was_found(inspection: Inspection, form: Form) -> None:
    structure = inspection.structure
    assert structure.hidden == ("h", "h_next")
    assert structure.cell == ("c", "c_next")
    assert structure.length == "length"
    assert set(structure.below) == {"x", "one_hot"}
    assert set(structure.above) == {"head.weight.T", "head.bias"}
    assert structure.activations == ({symbol: symbol for symbol in "ifgo"} if form == "gates" else {})
    for layer, cell in enumerate(structure.cells):
        for symbol, gate in cell.gates.items():
            expected = f"cells.{layer}.{GATE_MODULES[symbol]}.R" if form == "gates" else f"cells.{layer}.lstm.R"
            assert gate.R.initializer == expected
            assert gate.R.shape == (6, 6)
            assert gate.W.shape == (6, 5 if layer == 0 else 6)
            assert gate.b.shape == (6,)


def test_rows_of_packed_weights_are_said(exported: Exported) -> None:
    gate = inspect(exported("tokens", "fused")[0]).structure.cells[1].gates["f"]
    assert (str(gate.W), str(gate.b)) == ("cells.1.lstm.W[0, 12:18]", "cells.1.lstm.B[0, 12:18] + [0, 36:42]")


def test_text_says_it_all(inspection: Inspection, form: Form) -> None:
    text = as_text(inspection)
    spec = inspection.artifact.spec
    for said in (
        "tokens, version 1: LSTM, 2 x 6: one of 5 tokens in, 5 numbers out",
        f"form     {form}, contract 1, opset 20",
        spec.weights_fingerprint,
        "B T S X E",
        "h -> h_next  float32  [batch, 2, 6]  starts at 0",
        "against torch over 1024 steps",
        "rows of unlike length",
    ):
        assert said in text
    for cell in inspection.structure.cells:
        for gate in cell.gates.values():
            assert all(f"{weight} {list(weight.shape)}" in text for weight in (gate.W, gate.R, gate.b))
    if form == "gates":
        assert "cells.1.c_next = cells.1.f * cells.1.c + cells.1.i * cells.1.g" in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_long_vocabularies_are_cut_and_units_are_said(exported: Exported) -> None:
    inspection = inspect(exported("series", "gates")[0])
    inspection.artifact.spec.inputs[0].columns[:] = [f"column{k}" for k in range(20)]
    text = as_text(inspection)
    assert "column11 and 8 more; raw units, normalised in the graph" in text
    assert "column12" not in text


def test_json_has_spec_cells_and_checks(inspection: Inspection, form: Form) -> None:
    said = as_json(inspection)
    assert said["spec"]["weightsFingerprint"] == inspection.artifact.spec.weights_fingerprint
    assert list(said["cells"][0]["gates"]) == ["i", "f", "g", "o"]
    assert said["cells"][1]["gates"]["f"]["R"]["shape"] == [6, 6]
    assert said["cells"][0]["gates"]["g"]["output"] == ("g" if form == "gates" else "")
    assert said["checks"]["rows of unlike length"]


def test_drawing_is_xml_with_every_name_and_shape(inspection: Inspection) -> None:
    root = ET.fromstring(draw(inspection))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for cell in inspection.structure.cells:
        for name in (cell.x, cell.h, cell.c, cell.h_next, cell.c_next):
            assert name in texts
        for gate in cell.gates.values():
            for parameter, weight in (("W", gate.W), ("R", gate.R), ("b", gate.b)):
                assert f"{parameter} {weight} {list(weight.shape)}" in texts


def test_nothing_is_drawn_outside_the_image(inspection: Inspection) -> None:
    """As far as positions tell; the width of text is estimated where it is laid out."""
    root = ET.fromstring(draw(inspection))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        top = float(group.attrib["transform"].split()[1].rstrip(")"))
        for element in group:
            x, y = (float(element.attrib.get(name, 0)) for name in ("x", "y"))
            assert 0 <= x + float(element.attrib.get("width", 0)) <= width
            assert 0 <= top + y + float(element.attrib.get("height", 0)) <= height


def test_names_are_escaped_in_the_drawing(exported: Exported, tmp_path: Path) -> None:
    inspection = inspect(exported("numbers", "gates")[0])
    inspection.artifact.spec.name = "<&>"
    path = tmp_path / "cell.svg"
    path.write_text(draw(inspection))
    assert "<&>, version 1" in [element.text for element in ET.parse(path).iter()]

"""LSTM and GRU cells are found by data flow in anybody's graph, whatever their tensors are called."""

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from gatestream.export.finder.survey import survey
from tests.support.strangers.generators import ADOPTED

CELLS = {
    "lstm_exposed": ["LSTM"],
    "lstm_absent": ["LSTM"],
    "lstm_computed_zeros": ["LSTM"],
    "gru_two_layers": ["GRU", "GRU"],
    "gru_of_old": ["GRU", "GRU"],
    "lstm_packed": ["LSTM"],
    "lstm_last_axis": ["LSTM", "LSTM"],
    "lstm_cell_unrolled": ["LSTM"],
    "gru_cell_unrolled": ["GRU"],
    "keras_states": ["LSTM"],
    "gru_loop": ["GRU"],
    "scan": [],
    "window": ["LSTM"],
    "smoothing": [],
}


@pytest.mark.parametrize("name", CELLS)
def test_strangers(name: str, tmp_path: Path) -> None:
    stranger = ADOPTED[name](tmp_path)
    found = survey(ir.from_proto(onnx.load(stranger.path)))
    assert [cell.kind for cell in found if cell.kind != "RNN"] == CELLS[name]


def test_weights_that_a_loop_hands_on_are_found(tmp_path: Path) -> None:
    stranger = ADOPTED["gru_loop"](tmp_path)
    (cell,) = survey(ir.from_proto(onnx.load(stranger.path)))
    assert cell.linear_before_reset
    assert not cell.complement
    assert cell.h is not None
    assert cell.h.name == "h_in"
    r, z, n = (cell.gates[symbol] for symbol in "rzn")
    hidden = cell.hidden
    for k, gate in enumerate((z, r, n)):  # as keras packs them
        assert str(gate.W).endswith(f"[:, {k * hidden}:{(k + 1) * hidden}]")
    assert n.b_R is not None

import numpy as np
import pytest
import torch
from onnx import defs

from gatestream.model.cell import GATES
from gatestream.protos.roles import ONNX_ORDER, ONNX_ORDER_NAME, ROLES, pack, unpack


def test_roles_stand_in_the_order_of_the_model() -> None:
    assert [role.module for role in ROLES] == list(GATES)


def test_onnx_order_is_that_of_the_operator() -> None:
    """The operator's own documentation says which letters its inputs stack, and c is the candidate."""
    inputs = {each.name: each.description for each in defs.get_schema("LSTM", 14).inputs}
    assert f"`W[{ONNX_ORDER_NAME}]`" in inputs["W"]
    assert f"`R[{ONNX_ORDER_NAME}]`" in inputs["R"]
    assert ONNX_ORDER_NAME.replace("c", "g") == ONNX_ORDER


@pytest.mark.parametrize("order", ["ifgo", ONNX_ORDER])
def test_unpack_undoes_pack(order: str) -> None:
    gates = {symbol: np.full((3, 2), k, np.float32) for k, symbol in enumerate("ifgo")}
    packed = pack(gates, order)
    assert [packed[3 * k, 0] for k in range(4)] == ["ifgo".index(symbol) for symbol in order]
    for symbol, array in unpack(packed, order).items():
        np.testing.assert_array_equal(array, gates[symbol])


def test_torch_itself_packs_so() -> None:
    """A bias of -100 shuts a gate and turns the candidate to -1; c' and h' tell which it was."""
    cell = torch.nn.LSTMCell(1, 1)
    found = {}
    with torch.no_grad():
        for k, role in enumerate(ROLES):
            for parameter in cell.parameters():
                parameter.zero_()
            cell.bias_ih[k] = -100
            h, c = cell(torch.zeros(1, 1), (torch.zeros(1, 1), torch.full((1, 1), 2.0)))
            found[role.symbol] = round(c.item(), 6), h.item() != 0
    assert found == {"i": (1.0, True), "f": (0.0, False), "g": (0.5, True), "o": (1.0, False)}

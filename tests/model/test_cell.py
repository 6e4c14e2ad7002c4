import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gatestream.model.cell import GATES, LSTMCell


def sigma(a: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = 1 / (1 + np.exp(-a))
    return result


def numbers(cell: LSTMCell) -> dict[str, NDArray[np.float64]]:
    return {name: tensor.double().numpy() for name, tensor in cell.state_dict().items()}


def test_a_step_is_the_equations_read_independently() -> None:
    torch.manual_seed(1)
    cell = LSTMCell(3, 5)
    x, h, c = torch.randn(4, 3), torch.randn(4, 5), torch.randn(4, 5)
    with torch.no_grad():
        h_next, c_next, gates = cell(x, h, c)

    p = numbers(cell)

    def affine(gate: str) -> NDArray[np.float64]:
        result: NDArray[np.float64] = x.numpy() @ p[f"{gate}.W"].T + h.numpy() @ p[f"{gate}.R"].T + p[f"{gate}.b"]
        return result

    i, f, o = sigma(affine("input_gate")), sigma(affine("forget_gate")), sigma(affine("output_gate"))
    g = np.tanh(affine("cell_candidate"))
    c_expected = f * c.numpy() + i * g
    for came, expected in zip((h_next, c_next, *gates), (o * np.tanh(c_expected), c_expected, i, f, g, o), strict=True):
        np.testing.assert_allclose(came.numpy(), expected, rtol=0, atol=1e-6)


def test_each_gate_has_parameters_of_its_own() -> None:
    cell = LSTMCell(3, 5)
    assert {name: list(tensor.shape) for name, tensor in cell.named_parameters()} == {
        f"{gate}.{parameter}": shape
        for gate in ("input_gate", "forget_gate", "cell_candidate", "output_gate")
        for parameter, shape in (("W", [5, 3]), ("R", [5, 5]), ("b", [5]))
    }


def test_an_untrained_cell_remembers() -> None:
    assert torch.equal(LSTMCell(3, 5).forget_gate.b, torch.ones(5))


def test_packed_is_the_order_of_torch() -> None:
    torch.manual_seed(2)
    cell = LSTMCell(3, 5)
    theirs = nn.LSTMCell(3, 5)
    W, R, b = (packed.detach() for packed in cell.packed())
    theirs.load_state_dict({"weight_ih": W, "weight_hh": R, "bias_ih": b, "bias_hh": torch.zeros(20)})
    x, h, c = torch.randn(4, 3), torch.randn(4, 5), torch.randn(4, 5)
    h_next, c_next, _ = cell(x, h, c)
    expected = theirs(x, (h, c))
    torch.testing.assert_close((h_next, c_next), expected)
    assert GATES == ("input_gate", "forget_gate", "cell_candidate", "output_gate")

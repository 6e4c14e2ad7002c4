from collections.abc import Iterable
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gatestream.model.cell import LSTMCell
from gatestream.model.network import Network, NetworkConfig
from gatestream.model.weights import WeightsError, from_lstm, from_lstm_cell, to_lstm, to_lstm_cell


def network(layers: int) -> Network:
    return Network(NetworkConfig(name="n", task="t", encoder="none", inputs=3, hidden=5, layers=layers, outputs=2))


def in_order(net: Network) -> list[LSTMCell]:
    return list(cast(Iterable[LSTMCell], net.cells))


def cells(layers: int) -> list[LSTMCell]:
    return in_order(network(layers))


@settings(max_examples=15)
@given(layers=st.integers(1, 3), seed=st.integers(0, 1000))
def test_an_lstm_goes_in_and_comes_out(layers: int, seed: int) -> None:
    torch.manual_seed(seed)
    theirs = nn.LSTM(3, 5, layers, batch_first=True)
    ours = network(layers)
    from_lstm(in_order(ours), theirs.state_dict())
    xs, h, c = torch.randn(2, 6, 3), torch.randn(layers, 2, 5), torch.randn(layers, 2, 5)
    back = nn.LSTM(3, 5, layers, batch_first=True)
    back.load_state_dict(to_lstm(in_order(ours)))
    with torch.no_grad():
        hs, (h_last, c_last) = theirs(xs, (h, c))
        _, state, _ = ours(xs, (h.transpose(0, 1), c.transpose(0, 1)))
        again = back(xs, (h, c))
    torch.testing.assert_close(state, (h_last.transpose(0, 1), c_last.transpose(0, 1)))
    torch.testing.assert_close(again, (hs, (h_last, c_last)))


def test_two_biases_become_one_and_a_zero() -> None:
    theirs, cell = nn.LSTM(3, 5), cells(1)[0]
    from_lstm([cell], theirs.state_dict())
    state = to_lstm([cell])
    both = theirs.state_dict()
    assert torch.equal(state["bias_ih_l0"], both["bias_ih_l0"] + both["bias_hh_l0"])
    assert torch.equal(state["bias_hh_l0"], torch.zeros(20))


def test_a_cell_goes_in_and_comes_out() -> None:
    theirs, cell = nn.LSTMCell(3, 5), cells(1)[0]
    from_lstm_cell(cell, theirs.state_dict())
    x, h, c = torch.randn(2, 3), torch.randn(2, 5), torch.randn(2, 5)
    h_next, c_next, _ = cell(x, h, c)
    torch.testing.assert_close((h_next, c_next), theirs(x, (h, c)))
    back = nn.LSTMCell(3, 5)
    back.load_state_dict(to_lstm_cell(cell))
    torch.testing.assert_close(back(x, (h, c)), theirs(x, (h, c)))


@pytest.mark.parametrize(
    ("theirs", "named"),
    [
        (nn.LSTM(3, 5, 1), ["missing weight_ih_l1", "missing bias_hh_l1"]),
        (nn.LSTM(3, 5, 3), ["unexpected weight_ih_l2", "unexpected bias_hh_l2"]),
        (nn.LSTM(3, 5, 2, bias=False), ["missing bias_ih_l0", "missing bias_hh_l1"]),
        (nn.LSTM(3, 5, 2, bidirectional=True), ["unexpected weight_ih_l0_reverse", "weight_ih_l1 is [20, 10]"]),
        (nn.LSTM(3, 5, 2, proj_size=2), ["unexpected weight_hr_l0", "weight_hh_l0 is [20, 2], expected [20, 5]"]),
        (nn.LSTM(4, 5, 2), ["weight_ih_l0 is [20, 4], expected [20, 3]"]),
    ],
)
def test_an_lstm_that_does_not_fit_is_refused_with_every_difference(theirs: nn.LSTM, named: list[str]) -> None:
    ours = cells(2)
    before = [parameter.clone() for cell in ours for parameter in cell.parameters()]
    with pytest.raises(WeightsError) as error:
        from_lstm(ours, theirs.state_dict())
    for text in named:
        assert text in str(error.value)
    after = [parameter for cell in ours for parameter in cell.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_a_cell_that_does_not_fit_is_refused() -> None:
    with pytest.raises(WeightsError, match="missing bias_ih; missing bias_hh"):
        from_lstm_cell(cells(1)[0], nn.LSTMCell(3, 5, bias=False).state_dict())

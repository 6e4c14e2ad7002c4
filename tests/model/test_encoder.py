import torch

from gatestream.model.encoder import Denormalise, Normalise, OneHot


def test_one_hot() -> None:
    expected = torch.nn.functional.one_hot(torch.tensor([[0, 2], [1, 1]]), 3).float()
    assert torch.equal(OneHot(3)(torch.tensor([[0, 2], [1, 1]])), expected)


def test_normalise_and_back() -> None:
    x = torch.tensor([[12.0, -3.0]])
    normalised = Normalise((10.0, -5.0), (4.0, 0.5))(x)
    assert torch.equal(normalised, torch.tensor([[0.5, 4.0]]))
    assert torch.equal(Denormalise((10.0, -5.0), (4.0, 0.5))(normalised), x)

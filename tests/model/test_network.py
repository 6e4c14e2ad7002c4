from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._higher_order_ops.scan import scan

from gatestream.model.network import Network, NetworkConfig, State

NORMALISED: dict[str, Any] = {
    "input_mean": (10.0, -3.0, 0.5), "input_scale": (2.0, 0.1, 7.0),
    "output_mean": (100.0, 0.0), "output_scale": (5.0, 0.01),
}  # fmt: skip
ENCODERS: dict[str, dict[str, Any]] = {
    "one_hot": {},
    "embedding": {"embedding": 4},
    "linear": {"embedding": 4, **NORMALISED},
    "none": NORMALISED,
}


def network(encoder: Any, layers: int = 2, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(
        NetworkConfig(
            name="n", task="t", encoder=encoder, inputs=3, hidden=5, layers=layers, outputs=2, **ENCODERS[encoder]
        )
    )  # fmt: skip


def inputs(net: Network, batch: int, time: int) -> Tensor:
    return torch.randint(3, (batch, time)) if net.config.tokens else torch.randn(batch, time, 3) * 3 + 5


def state(net: Network, batch: int) -> State:
    shape = (batch, net.config.layers, net.config.hidden)
    return torch.randn(shape), torch.randn(shape)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_forward_is_step_after_step(encoder: str) -> None:
    net = network(encoder)
    xs, carried = inputs(net, 4, 6), state(net, 4)
    ys, last, gates = net(xs, carried)
    for time in range(6):
        y, carried, activations = net.step(xs[:, time], carried)
        assert torch.equal(y, ys[:, time])
        for gate, activation in zip(gates, activations, strict=True):
            assert torch.equal(activation, gate[:, time])
    assert torch.equal(carried[0], last[0])
    assert torch.equal(carried[1], last[1])


def test_shapes() -> None:
    net = network("none", layers=3)
    ys, (h, c), gates = net(inputs(net, 4, 6), net.initial_state(4))
    assert ys.shape == (4, 6, 2)
    assert h.shape == c.shape == (4, 3, 5)
    assert [gate.shape for gate in gates] == [(4, 6, 3, 5)] * 4


@settings(max_examples=25)
@given(
    encoder=st.sampled_from(list(ENCODERS)),
    layers=st.integers(1, 3),
    batch=st.integers(1, 5),
    time=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_fast_equals_forward_in_values_and_gradients(
    encoder: str, layers: int, batch: int, time: int, seed: int
) -> None:
    net = network(encoder, layers, seed).double()  # a difference is then one of mathematics, not of rounding
    xs, (h, c) = inputs(net, batch, time), state(net, batch)
    xs, carried = xs if net.config.tokens else xs.double(), (h.double(), c.double())
    results = []
    for path in (lambda: net(xs, carried)[:2], lambda: net.fast(xs, carried)):
        ys, (h, c) = path()
        weight = torch.arange(1.0, ys.numel() + 1).reshape(ys.shape) / ys.numel()  # no two outputs alike
        net.zero_grad()
        ((ys / 100 * weight).sum() + (h * c).sum()).backward()
        gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
        assert all(gradient is not None for gradient in gradients.values())
        results.append((ys.detach(), h.detach(), c.detach(), gradients))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_fast_equals_forward_in_single_precision(encoder: str) -> None:
    net = network(encoder)
    xs, carried = inputs(net, 4, 50), state(net, 4)
    with torch.no_grad():
        torch.testing.assert_close(net.fast(xs, carried), net(xs, carried)[:2])


def test_numbers_are_normalised_on_the_way_in_and_out() -> None:
    net = network("none")
    plain = Network(NetworkConfig(name="n", task="t", encoder="none", inputs=3, hidden=5, layers=2, outputs=2))
    plain.load_state_dict(net.state_dict())
    xs, carried = inputs(net, 4, 6), state(net, 4)
    normalised = (xs.double() - torch.tensor(NORMALISED["input_mean"])) / torch.tensor(NORMALISED["input_scale"])
    with torch.no_grad():
        ys, expected = net.fast(xs, carried)[0], plain.fast(normalised.float(), carried)[0]
    expected = expected * torch.tensor(NORMALISED["output_scale"]) + torch.tensor(NORMALISED["output_mean"])
    np.testing.assert_allclose(ys, expected, rtol=1e-5)


def test_normalisation_is_configuration_not_weight() -> None:
    assert not any("mean" in name or "scale" in name for name in network("linear").state_dict())


@pytest.mark.parametrize("encoder", ["one_hot", "embedding"])
def test_a_token_outside_the_vocabulary_is_an_error(encoder: str) -> None:
    net = network(encoder)
    with pytest.raises(IndexError):
        net.step(torch.tensor([3]), net.initial_state(1))


class Scanned(torch.nn.Module):
    """Time as torch's scan operator, as an exporter wants it."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net

    def forward(self, xs: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        def body(carried: State, x: Tensor) -> tuple[State, Tensor]:
            y, carried, _ = self.net.step(x, carried)
            return carried, y

        (h, c), ys = scan(body, (h, c), xs.transpose(0, 1).contiguous(), dim=0)
        return ys.transpose(0, 1), h, c


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch warns of its own use of a pytree function
@pytest.mark.parametrize("encoder", ["one_hot", "linear"])
def test_step_can_be_traced_inside_scan_with_any_batch_and_time(encoder: str) -> None:
    net = network(encoder)
    any_size = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        program = torch.export.export(
            Scanned(net),
            (inputs(net, 3, 4), *state(net, 3)),
            dynamic_shapes=({0: any_size, 1: any_size}, {0: any_size}, {0: any_size}),
        )
        xs, (h, c) = inputs(net, 2, 7), state(net, 2)
        came, expected = program.module()(xs, h, c), net.fast(xs, (h, c))
    torch.testing.assert_close(came, (expected[0], *expected[1]), rtol=1e-4, atol=1e-5)

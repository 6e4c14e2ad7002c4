from typing import Any

import numpy as np
import pytest
import torch

from gatestream.export.exporter import reference, weights_of
from gatestream.export.proof import samples
from gatestream.export.proof.rounding import TOLERANCE, Rounding, Truth
from gatestream.export.spec import describe
from gatestream.model.network import Network
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import Array
from tests.export import networks


def spec_of(network: Network) -> pb.ModelSpec:
    return describe(network.config, pb.FORM_GATES, version="1", fingerprint="", opset=20, torch_version="")


def truth_of(network: Network, steps: int) -> tuple[tuple[Any, Array, Array], Truth]:
    spec, weights = spec_of(network), weights_of(network)
    rounding = Rounding(weights, spec)
    x = samples.inputs(spec, 2, steps, np.random.default_rng(0))
    start = x, *samples.zeros(spec, 2)
    return start, rounding.truth(*start)


def test_a_calm_network_has_the_absolute_tolerance() -> None:
    torch.manual_seed(0)  # The weights are to be the same whatever tests ran before.
    allowed = truth_of(Network(networks.NUMBERS), 200)[1].allowed
    assert set(allowed) == set("yhcifgo")
    for tensor, bound in allowed.items():
        np.testing.assert_array_equal(bound, np.full_like(bound, TOLERANCE), err_msg=tensor)


def test_what_is_denormalised_is_measured_in_normalised_units() -> None:
    allowed = truth_of(Network(networks.SERIES), 20)[1].allowed
    np.testing.assert_allclose(allowed["y"][0], np.array(networks.SERIES.output_scale) * allowed["y"][0, 1] / 0.5)
    assert allowed["y"].shape == (20, 4)


def test_a_network_that_amplifies_what_it_loses_is_allowed_what_float32_loses() -> None:
    """Large weights: torch's own float32 runs away from the true numbers, and stays within what is allowed."""
    network = networks.random(networks.TOKENS)
    with torch.no_grad():
        for parameter in network.cells.parameters():
            parameter.mul_(3)
    start, truth = truth_of(network, 600)
    exact, single, allowed = truth.steps, reference(network)(*start), truth.allowed
    lost = {tensor: np.abs(single[tensor] - exact[tensor]) for tensor in exact}
    assert max(values.max() for values in lost.values()) > TOLERANCE
    for tensor, values in lost.items():
        assert (values <= allowed[tensor]).all(), tensor
        assert (np.diff(allowed[tensor], axis=0) >= 0).all(), tensor
        assert allowed[tensor][0].max() == pytest.approx(TOLERANCE), tensor

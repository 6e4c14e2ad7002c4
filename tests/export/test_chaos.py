"""Networks that amplify the last bits of their states until float32 has nothing left to compare."""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from gatestream.export.artifact import load, save
from gatestream.export.exporter import build, reference, spec_of, weights_of
from gatestream.export.proof import parity, samples
from gatestream.export.proof.comparison import DifferenceError
from gatestream.export.proof.oracle import Oracle
from gatestream.export.proof.parity import Model
from gatestream.export.proof.rounding import FACTOR, TOLERANCE, Rounding
from gatestream.export.proof.runtime import Session
from gatestream.export.proof.verify import verify
from gatestream.model.network import Network, NetworkConfig
from tests.export import mutations as m
from tests.export.mutations import Mutation

CHAOTIC = {"one layer": (24, 12, 1, 12), "two layers": (12, 10, 2, 68)}
"""Hidden units, times that the recurrent weights are those of a new network, layers and seed: networks of which torch's
own float32 is further from the true numbers than `FACTOR` times what one float32 run of the oracle loses."""


@cache
def chaotic(name: str) -> Network:
    hidden, gain, layers, seed = CHAOTIC[name]
    torch.manual_seed(seed)
    config = NetworkConfig(name="chaos", task="own", encoder="none", inputs=1, hidden=hidden, layers=layers, outputs=1)
    network = Network(config)
    with torch.no_grad():
        for parameter, tensor in network.cells.named_parameters():
            if parameter.endswith(".R"):
                tensor.mul_(gain)
    return network


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The file of a network, not yet proved."""
    folder = tmp_path_factory.mktemp("chaos")

    @cache
    def written(name: str) -> Path:
        network = chaotic(name)
        save(build(network, "gates"), spec_of(network, "gates"), folder / f"{name}.onnx")
        return folder / f"{name}.onnx"

    return written


@pytest.mark.parametrize("name", CHAOTIC)
def test_the_networks_are_chaotic(name: str) -> None:
    """Recurrent weights with a spectral radius well over 1; one float32 run tells too little of another."""
    network, spec = chaotic(name), spec_of(chaotic(name), "gates")
    weights = weights_of(network)
    assert max(abs(np.linalg.eigvals(weights["cells.0.cell_candidate.R"]))) > 2
    start = samples.inputs(spec, 2, parity.STEPS, np.random.default_rng(0))[:, :300], *samples.zeros(spec, 2)
    exact = Oracle(weights, spec).run(*start)
    # Each with other last bits between the steps; which of them happens to lose little depends on the processor.
    lost = [_lost(Oracle(weights, spec, np.float32), exact, start, seed) for seed in range(8)]
    excess = max(
        (one[tensor] / np.maximum(TOLERANCE, FACTOR * np.maximum.accumulate(other[tensor]))).max()
        for one, other in permutations(lost, 2)
        for tensor in exact
    )
    assert excess > 1
    assert 10 < Rounding(weights, spec).truth(*start).parted < 300


def _lost(single: Oracle, exact: Mapping[str, Any], start: Sequence[Any], seed: int) -> dict[str, Any]:
    """How far a float32 run is from the true numbers, by tensor, [steps]."""
    rng = np.random.default_rng(seed)
    x, *states = start
    steps = []
    for t in range(x.shape[1]):
        steps.append(single.run(x[:, t, None], *states))
        towards = [np.where(rng.random(steps[-1][k].shape) < 0.5, -np.inf, np.inf).astype(np.float32) for k in "hc"]
        states = [np.nextafter(steps[-1][k], to)[:, 0] for k, to in zip("hc", towards, strict=True)]
    found = {tensor: np.concatenate([step[tensor] for step in steps], axis=1) for tensor in exact}
    return {
        tensor: np.abs(found[tensor] - values).max(axis=tuple(k for k in range(values.ndim) if k != 1))
        for tensor, values in exact.items()
    }


@pytest.mark.parametrize("name", ["one layer", pytest.param("two layers", marks=pytest.mark.slow)])
def test_a_faithful_export_passes(exported: Any, name: str) -> None:
    network = chaotic(name)
    report = verify(exported(name), weights_of(network), reference(network))
    assert report.passed, report.checks[-1]
    carried = {figure.case: figure.steps for figure in report.figures}
    assert carried["each step"] == parity.STEPS
    assert carried["singly"] < 300


def counted_by_two(model: onnx.ModelProto) -> None:
    """Rows end at half their length: no step alone shows it."""
    inside = m.body(model)
    count = next(node.input[0] for node in inside.node if node.op_type == "Less")
    add = next(node for node in inside.node if node.op_type == "Add" and count in node.input)
    model.graph.initializer.append(numpy_helper.from_array(np.array(2, np.int32), "two"))
    add.input[1] = "two"


MUTATIONS: dict[str, tuple[Mutation, str]] = {
    "missing forget gate": (m.missing_forget_gate, "c differs from numpy (each step), first at step 1,"),
    "tanh for sigmoid": (m.operator("cells.0.f", "Tanh"), "f differs from numpy (each step), first at step 0,"),
    "sum for product": (m.added_gate, "c differs from numpy (each step), first at step 0,"),
    "bias dropped": (m.bias_dropped, "o differs from numpy (each step), first at step 0,"),
    "bias zeroed": (m.bias_zeroed, "f differs from numpy (each step), first at step 0,"),
    "R transposed": (m.recurrent_transposed, "differs from numpy (each step), first at step 1,"),
    "gate outputs exchanged": (m.gate_outputs_exchanged, "i differs from numpy (each step), first at step 0,"),
    "output squashed": (m.squashed_output, "y differs from numpy (each step), first at step"),
    "h and c exchanged in the loop": (m.carried_into_each_other, "differs from numpy (each step), first at step 0,"),
    "steps counted by two": (counted_by_two, "differs from numpy (each chunk), first at step 2,"),
}


@pytest.mark.parametrize(("mutation", "message"), MUTATIONS.values(), ids=MUTATIONS)
def test_a_spoilt_one_is_refused_as_ever(exported: Any, tmp_path: Path, mutation: Mutation, message: str) -> None:
    for name in CHAOTIC:
        model = onnx.load(exported(name))
        mutation(model)
        onnx.save(model, tmp_path / "spoilt.onnx")
        spec = load(tmp_path / "spoilt.onnx").spec
        right = Model(Session(tmp_path / "spoilt.onnx", spec), spec, Rounding(weights_of(chaotic(name)), spec))
        with pytest.raises(DifferenceError) as caught:
            parity.carried(right, steps=60)
        assert message in str(caught.value), name

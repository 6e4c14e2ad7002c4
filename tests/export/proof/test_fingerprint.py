from pathlib import Path

import numpy as np

from gatestream.export.exporter import weights_of
from gatestream.model.checkpoint import load
from gatestream.protos.weights import fingerprint

FIXTURE = Path(__file__).parents[1] / "fixtures" / "small.safetensors"


def test_fingerprint_of_a_known_checkpoint() -> None:
    """A state is kept under the fingerprint of its weights: the definition must not change unseen."""
    found = fingerprint(weights_of(load(FIXTURE).network))
    assert found == "410e85718b5f6bf6bc8f21e7dbd13374a9c2453ab85395f171e4e1aeffc8a5ea"


def test_names_shapes_and_bytes_count_and_order_does_not() -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, np.float32)
    one = fingerprint({"a": a, "b": b})
    assert one == fingerprint({"b": b, "a": a})
    assert one == fingerprint({"a": np.asfortranarray(a), "b": b})
    others = [{"a": a, "c": b}, {"a": a.reshape(3, 2), "b": b}, {"a": a, "b": np.nextafter(b, np.float32(2))}, {"a": a}]
    assert len({one, *map(fingerprint, others)}) == 5

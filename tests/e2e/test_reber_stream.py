"""The reference model does what it was trained for, through a real server. `make million` is the long version."""

from pathlib import Path

import numpy as np
import pytest

from gatestream.client import connect
from gatestream.model.tasks import reber
from tests.proofs.million import judged
from tests.support.process import serving

SYMBOLS = 20_000

pytestmark = pytest.mark.timeout(600)  # the model may have to be trained first


@pytest.mark.parametrize("form", ["gates", "fused"])
def test_no_prediction_is_illegal(reference: Path, form: str) -> None:
    artifact = reference / f"reber.{form}.onnx"
    with serving(artifact) as server, connect(server.address) as gs, gs.session("reber") as session:
        symbols, illegal, margins = zip(*judged(session, SYMBOLS, seed=20_000, chunk=777), strict=True)
        (info,) = gs.list_sessions()
    assert sum(symbols) == SYMBOLS
    assert info.position == SYMBOLS
    assert sum(illegal) == 0
    assert min(margins) > 0


def test_one_lost_symbol_would_show(reference: Path) -> None:
    """A state that missed one step is found out: the proof above could fail."""
    symbols, _, legal = reber.Streams(1, 6).take(1000)
    with serving(reference / "reber.gates.onnx") as server, connect(server.address) as gs, gs.session() as session:
        scores = session.run(np.delete(symbols[0], 500))
    assert reber.illegal(scores[:500], legal[0, :500]) == 0
    assert reber.illegal(scores[500:], legal[0, 501:]) > 0


def test_sessions_side_by_side(reference: Path) -> None:
    count, steps = 50, 400
    symbols, _, legal = reber.Streams(count, 7).take(steps)
    with serving(reference / "reber.gates.onnx") as server, connect(server.address) as gs:
        group = gs.group("reber", count)
        chunks = [group.run(symbols[:, begin : begin + 100]) for begin in range(0, steps - 100, 100)]
        single = [group.step(symbols[:, step])[:, None] for step in range(steps - 100, steps)]
    assert reber.illegal(np.concatenate([*chunks, *single], axis=1), legal) == 0

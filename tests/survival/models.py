"""What is served: the reference model, and one of hidden 128."""

from collections.abc import Sequence
from pathlib import Path

from tests.support.lstm import Lstm
from tests.survival.walks import Model

MODELS: Sequence[Model] = (Model("reber", tokens=7), Model("wide", features=16))


def artifacts(reber: Path, folder: Path) -> list[Path]:
    """Of each.

    Args:
        reber: the reference model's.
        folder: for the other's.
    """
    return [reber, Lstm.random(features=16, hidden=128, seed=11).save(folder / "wide.onnx", name="wide")]

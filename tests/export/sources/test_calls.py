"""The ways in which people write `forward`: how it is called, and what of its results is an output."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from gatestream.export.sources.signature import read
from gatestream.export.sources.streamed import Streamed


class Scores(NamedTuple):
    logits: Tensor
    features: Tensor


@dataclass
class Result:
    logits: Tensor
    inner: Scores


class _Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        ys, _ = self.gru(x)
        return self.head(ys), ys


class Keyword(_Base):
    def forward(self, *, x: Tensor, scale: float = 1.0) -> Tensor:
        return scale * self.both(x)[0]


class Keywords(_Base):
    def forward(self, **inputs: Tensor) -> Tensor:
        return self.both(inputs["x"])[0]


class Positional(_Base):
    def forward(self, x: Tensor, /) -> Tensor:
        return self.both(x)[0]


class Nested(_Base):
    def forward(self, x: dict[str, Tensor]) -> dict[str, Any]:
        logits, features = self.both(torch.cat([x["a"], x["b"]], dim=2))
        return {"logits": logits, "inner": {"features": features}}


class Named(_Base):
    def forward(self, x: Tensor) -> Scores:
        return Scores(*self.both(x))


class Data(_Base):
    def forward(self, x: Tensor) -> Result:
        logits, features = self.both(x)
        return Result(logits, Scores(logits, features))


@pytest.mark.parametrize(
    ("make", "inputs", "outputs"),
    [
        (Keyword, ["x[4]"], ["y"]),
        (Keywords, ["x[4]"], ["y"]),
        (Positional, ["x[4]"], ["y"]),
        (Nested, ["x.a[1]", "x.b[3]"], ["logits", "inner.features"]),
        (Named, ["x[4]"], ["logits", "features"]),
        (Data, ["x[4]"], ["logits", "inner.logits", "inner.features"]),
    ],
)
def test_a_module_is_called_as_it_is_written(make: Callable[[], _Base], inputs: list[str], outputs: list[str]) -> None:
    torch.manual_seed(0)
    module = make().eval()
    streamed = Streamed(module, read(module, inputs))
    assert [each.port.name for each in streamed.outputs] == outputs
    x = torch.randn(3, 5, 4)
    given = list(torch.tensor_split(x, [1], dim=2)) if len(inputs) == 2 else [x]
    with torch.no_grad():
        logits, features = module.both(x)
    found = dict(zip(outputs, streamed.whole(given, []), strict=True))
    assert torch.equal(next(iter(found.values())), logits)
    for name in outputs:
        if name.endswith("features"):
            assert torch.equal(found[name], features)

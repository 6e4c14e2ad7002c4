"""What a module is given once for a session, and what it always has."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gatestream.client import Client, connect
from gatestream.client.errors import TokenOutOfRangeError
from gatestream.export.errors import SourceError
from gatestream.export.sources.module import Exported, export_module
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.export.sources.test_module import walked
from tests.support.process import serving

SPEAKER, ACCENT = "speaker:float32[3]", "accent:int64<5[]"


class Voiced(nn.Module):
    """A GRU that hears at every step whose voice it is."""

    def __init__(self) -> None:
        super().__init__()
        self.accents = nn.Embedding(5, 2)
        self.gru = nn.GRU(4 + 3 + 2, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor, speaker: Tensor, accent: Tensor, gain: float, mask: Tensor | None = None) -> Tensor:
        voice = torch.cat([nn.functional.normalize(speaker, dim=1), self.accents(accent)], 1)
        ys, _ = self.gru(torch.cat([x, voice[:, None].expand(-1, x.shape[1], -1)], 2))
        found: Tensor = gain * self.head(ys)
        return found if mask is None else found * mask


class VoicedCell(nn.Module):
    """One step a call, its state said, the constant between the two."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 6)
        self.key = nn.Linear(3, 6)

    def forward(self, x: Tensor, speaker: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.cell(x, h * torch.sigmoid(self.key(speaker)))
        return h, h


def voiced(path: Path, **constants: Any) -> tuple[Voiced, Exported]:
    torch.manual_seed(0)
    module = Voiced()
    return module, export_module(module, path, inputs=["x[4]"], constants={SPEAKER: None, ACCENT: None, **constants})


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("constants")
    voiced(folder / "voiced.onnx", gain=2.0)
    torch.manual_seed(0)
    export_module(VoicedCell(), folder / "cell.onnx", inputs=["x[batch,4]"], states=["h[6]"], constants={SPEAKER: None})
    return {"voiced": folder / "voiced.onnx", "cell": folder / "cell.onnx"}


@pytest.fixture(scope="module")
def gs(paths: dict[str, Path]) -> Iterator[Client]:
    with serving(*paths.values()) as server, connect(server.address) as client:
        yield client


def test_each_session_is_served_with_its_own(gs: Client) -> None:
    torch.manual_seed(0)
    module, x = Voiced().eval(), torch.randn(2, 9, 4)
    speakers, accents = torch.randn(2, 3), torch.tensor([4, 1])
    with torch.no_grad():
        expected = module(x, speakers, accents, 2.0).numpy()
    given = [{"speaker": speakers[k].numpy(), "accent": accents[k].numpy()} for k in range(2)]
    with gs.session("voiced", constants=given[0]) as one, gs.session("voiced", constants=given[1]) as other:
        for t in range(4):
            np.testing.assert_allclose(one.step(x[0, t].numpy()), expected[0, t], atol=1e-6)
            np.testing.assert_allclose(other.step(x[1, t].numpy()), expected[1, t], atol=1e-6)
        np.testing.assert_allclose(one.run(x[0, 4:].numpy()), expected[0, 4:], atol=1e-6)
    with pytest.raises(TokenOutOfRangeError, match=r"constant 'accent' holds 5; expected 0 to 4"):
        gs.session("voiced", constants={"speaker": [0, 0, 1], "accent": 5}).step(x[0, 0].numpy())


def test_one_step_a_call(gs: Client) -> None:
    torch.manual_seed(0)
    module, x, speaker, h = VoicedCell().eval(), torch.randn(9, 4), torch.randn(1, 3), torch.zeros(1, 6)
    with gs.session("cell", constants={"speaker": speaker[0].numpy()}) as session:
        found = np.concatenate([session.run(x[:5].numpy()), [session.step(x[t].numpy()) for t in range(5, 9)]])
    with torch.no_grad():
        for t in range(9):
            y, h = module(x[t : t + 1], speaker, h)
            np.testing.assert_allclose(found[t], y[0].numpy(), atol=1e-6)


def test_the_file_says_what_they_are(tmp_path: Path) -> None:
    _, made = voiced(tmp_path / "voiced.onnx", gain=2.0, mask=np.array([1.0, 0.0, 1.0]))
    constants = [each for each in made.spec.states if each.role == pb.STATE_ROLE_CONSTANT]
    assert [(each.input, each.output, each.required, each.limit) for each in constants] == [
        ("speaker", "speaker_next", True, 0),
        ("accent", "accent_next", True, 5),
    ]
    found = {each.name: (each.role, each.becomes) for each in made.spec.source.tensors}
    assert found["speaker"] == ("constant", "speaker")
    assert found["gain"] == found["mask"] == ("constant", "")


def test_a_value_for_good_is_that_of_every_row(tmp_path: Path) -> None:
    speaker, x = torch.tensor([3.0, 4.0, 0.0]), torch.randn(2, 9, 4)
    module, made = voiced(tmp_path / "fixed.onnx", gain=2.0, **{SPEAKER: speaker.numpy(), ACCENT: 2})
    assert [each.input for each in made.spec.states] == ["gru.h"]
    with torch.no_grad():
        expected = module(x, speaker.expand(2, 3), torch.tensor([2, 2]), 2.0).numpy()
    np.testing.assert_allclose(walked(tmp_path / "fixed.onnx", x.numpy(), (4, 1, 4))["y"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("constants", "said"),
    [
        ({}, "forward takes 'speaker', which is neither an input nor a state"),
        ({"speaker": None}, "'speaker' is not written as NAME:TYPE[SHAPE]"),
        ({SPEAKER: None, "accent:int64[]": None}, "--constant accent:int64<N[batch] for numbers from 0 to below N"),
        ({SPEAKER: np.zeros(4)}, "constant speaker:float32[batch,3] has the value [4], expected [3]"),
        ({SPEAKER: None, "nobody:float32[3]": None, "gain": 1.0, ACCENT: 1}, "no parameter 'nobody'"),
        ({SPEAKER: None, "speaker": 1.0}, "'speaker' is said twice"),
        ({"speaker:float32[time,3]": None}, "only inputs have time"),
    ],
)
def test_what_is_wrong_with_one_is_said_in_one_line(constants: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as refused:
        export_module(Voiced(), tmp_path / "voiced.onnx", inputs=["x[4]"], constants=constants)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)

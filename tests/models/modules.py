"""Modules of torch that the packages hold, as their authors step them."""

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gatestream.export.proof.report import Report
from gatestream.export.sources.module import export_module
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from tests.models.catalogue import packages
from tests.models.own import OWN, Own
from tests.models.own import made as made_of
from tests.support.strangers.adopted import Adopted


class FlashVadStream(nn.Module):
    """`flashvad.model:FlashVad` with all of its state said: the GRU's, and four caches of convolutions."""

    INPUTS = ("feature:float32[batch,43]",)

    def __init__(self) -> None:
        super().__init__()
        self.model = flashvad()
        sizes = [block.cache_size for block in self.model.blocks]
        caches = (f"cache_{index}:float32[batch,64,{size}]" for index, size in enumerate(sizes))
        self.STATES = (f"recurrent:float32[1,batch,{self.model.config.recurrent_dim}]", *caches)

    def forward(self, feature: Tensor, recurrent: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        made = importlib.import_module("flashvad.model").StreamingModelState(caches, recurrent)
        heads, state = self.model.stream_step(feature, made)
        return heads["speech_logits"], state.recurrent, *state.convolution


class FlashVadPlain(nn.Module):
    """The same module over a sequence, its GRU's state for all that anybody can see."""

    INPUTS = ("features:float32[43]",)

    def __init__(self) -> None:
        super().__init__()
        self.model = flashvad()

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.model(features)["speech_logits"]
        return logits


class Akiki(nn.Module):
    """`akiki._torch:AkikiModel` with its weights; the samples before a window are a state, as in `akiki.VAD`."""

    INPUTS = ("window:float32[batch,256]",)
    STATES = ("context:float32[batch,320]", "h:float32[1,batch,128]")

    def __init__(self) -> None:
        super().__init__()
        self.model = _imported("akiki._torch").AkikiModel(128)
        stored = torch.load(packages() / "akiki" / "models" / "akiki-vad.pt", weights_only=True)
        self.model.load_state_dict(stored["state_dict"])

    def forward(self, window: Tensor, context: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        samples = torch.cat([context, window], 1)
        probability, h = self.model(samples, h)
        return probability, samples[:, -320:], h


def flashvad() -> Any:
    """With random weights: the package has none for torch."""
    torch.manual_seed(0)
    module = _imported("flashvad.model").FlashVad()
    return module.eval()


def _imported(name: str) -> Any:
    """A module of a package; what it imports itself is here or in the package."""
    folder = str(packages())
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


@dataclass(frozen=True)
class Module:
    """A module to export.

    Attributes:
        package: that holds it.
        make: it, as a module that can be stepped.
        refused: words of the error; empty: it is exported.
    """

    package: str
    make: Callable[[], Any]
    refused: str = ""

    @property
    def name(self) -> str:
        return f"torch: {self.make.__name__}"

    def export(self, artifact: Path) -> tuple[pb.ModelSpec, Report]:
        """Write the artifact.

        Raises:
            ArtifactError: it cannot be streamed.
        """
        module = self.make()
        made = export_module(module, artifact, inputs=module.INPUTS, states=getattr(module, "STATES", ()))
        return made.spec, made.report

    def differences(self, artifact: Path) -> dict[str, float]:
        """From the module itself, stepped in torch: of single steps, of chunks, and of rows together."""
        module, adopted = self.make().eval(), Adopted(artifact)
        steps, rows = 12, 3
        name, first = next(iter(adopted.inputs.items()))
        xs = np.random.default_rng(0).normal(0, 0.5, (rows, steps, *first)).astype(np.float32)
        with torch.no_grad():
            states = [torch.from_numpy(state) for state in adopted.start(rows).values()]
            moved = [(port.index("batch")) for port in _axes(module.STATES)]
            states = [state.movedim(0, axis) for state, axis in zip(states, moved, strict=True)]
            expected = []
            for t in range(steps):
                y, *states = module(torch.from_numpy(xs[:, t]), *states)
                expected.append(y.numpy())
        wanted = np.stack(expected, 1)
        found = {}
        for case, cuts, count in (("steps", range(steps + 1), 1), ("chunks", (0, 5, 6, 12), rows)):
            carried = adopted.start(count)
            worst = 0.0
            for begin, end in pairwise(cuts):
                got = adopted.advance(carried, [{name: x[begin:end]} for x in xs[:count]])
                for row, outputs in enumerate(got):
                    (y,) = outputs.values()
                    worst = max(worst, float(np.abs(y - wanted[row, begin:end]).max()))
            found[case] = worst
        return found


def _axes(ports: Sequence[str]) -> list[list[str]]:
    return [port.partition("[")[2].rstrip("]").split(",") for port in ports]


@dataclass(frozen=True)
class OwnModule:
    """A module that is written here.

    Attributes:
        cls: of `own`.
    """

    cls: type[Own]
    package: str = "written here"

    @property
    def name(self) -> str:
        return f"torch: {self.cls.__name__}"

    def export(self, artifact: Path) -> tuple[pb.ModelSpec, Report]:
        """Write the artifact."""
        cls = self.cls
        made = export_module(made_of(cls), artifact, inputs=cls.INPUTS, states=cls.STATES, constants=cls.CONSTANTS)
        return made.spec, made.report

    def differences(self, artifact: Path) -> dict[str, float]:
        """From the module itself in torch, of all steps at once where it takes them so: of steps, chunks and rows."""
        steps, rows = 12, 3
        inputs, constants = self.cls.sample(rows, steps)
        wanted = made_of(self.cls).whole(inputs, constants).double().numpy()
        adopted = Adopted(artifact)
        xs = dict(zip(adopted.inputs, (each.numpy() for each in inputs), strict=True))
        names = [name.partition(":")[0] for name in self.cls.CONSTANTS]
        given = [{n: each[row].numpy() for n, each in zip(names, constants, strict=True)} for row in range(rows)]
        found = {}
        for case, cuts, count in (("steps", range(steps + 1), 1), ("chunks", (0, 5, 6, 12), rows)):
            carried, worst = adopted.start(count, given[:count]), 0.0
            for begin, end in pairwise(cuts):
                got = adopted.advance(carried, [{n: x[row, begin:end] for n, x in xs.items()} for row in range(count)])
                for row, outputs in enumerate(got):
                    (y,) = outputs.values()
                    worst = max(worst, float(np.abs(y - wanted[row, begin:end]).max()))
            found[case] = worst
        return found


MODULES = (
    Module("flashvad", FlashVadStream),
    Module("flashvad", FlashVadPlain, refused="depthwise"),
    Module("akiki", Akiki),
)
OWN_MODULES = tuple(map(OwnModule, OWN))

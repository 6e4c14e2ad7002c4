"""The models that are measured: random weights of a fixed seed, exported once into a folder beside this file."""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast

from benchmarks.harness.machine import cores

if TYPE_CHECKING:
    from gatestream.model.network import Network

Form = Literal["gates", "fused"]
FORMS: Final[tuple[Form, ...]] = ("gates", "fused")
Weights = Literal["float32", "float16", "int8"]
File = tuple[str, Form, Weights]
"""A model, its form, and how its weights are stored."""

_ROOT: Final = Path(__file__).parent.parent
_CACHE: Final = Path(__file__).parent / "models"


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a load generator and a bare run must know of a model.

    Attributes:
        tokens: size of the vocabulary; 0 where the input is `inputs` float32.
        outputs: float32 in a row of the output.
    """

    name: str
    hidden: int
    inputs: int
    outputs: int
    layers: int = 1
    tokens: int = 0

    @property
    def state_bytes(self) -> int:
        """Of one session: h and c."""
        return 2 * 4 * self.layers * self.hidden

    @property
    def gate_bytes(self) -> int:
        """Of one step: four gates."""
        return 4 * 4 * self.layers * self.hidden


SHAPES: Final = {
    shape.name: shape
    for shape in (
        ModelShape("reber", hidden=32, inputs=7, outputs=7, tokens=7),
        ModelShape("lstm128", hidden=128, inputs=64, outputs=64),
        ModelShape("lstm512", hidden=512, inputs=256, outputs=256),
        ModelShape("lstm512x2", hidden=512, inputs=256, outputs=256, layers=2),
        ModelShape("lstm1024", hidden=1024, inputs=512, outputs=512),
    )
}


def artifact(name: str, form: Form, weights: Weights = "float32") -> Path:
    """A model's file, which `prepare` has made."""
    return folder() / f"{name}-{form}-{weights}.onnx"


def prepare(files: Sequence[File] = ()) -> None:
    """Export the models that this version of the exporter has not exported before.

    Args:
        files: which; none: every model in both forms, float32.

    Raises:
        subprocess.CalledProcessError: an export failed; it has said why.
    """
    wanted = files or [(name, form, "float32") for name in SHAPES for form in FORMS]
    missing = ["-".join(file) for file in wanted if not artifact(*file).exists()]
    if missing:
        # In processes of their own: the harness does without torch.
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.models", str(folder())]
        count = min(cores(), len(missing))
        with ThreadPoolExecutor(count) as pool:
            run = partial(subprocess.run, check=True, cwd=_ROOT)
            list(pool.map(run, ([*command, *missing[k::count]] for k in range(count))))


@cache
def folder() -> Path:
    """Where the files are: named after the exporter's sources."""
    digest = hashlib.sha256()
    for folder in ("model", "export"):
        for path in sorted((_ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return _CACHE / digest.hexdigest()[:12]


def network(shape: ModelShape) -> "Network":
    """Of a shape, its weights noise of a fixed seed."""
    import torch

    from gatestream.model.network import Network, NetworkConfig

    torch.manual_seed(0)
    return Network(
        NetworkConfig(
            name=shape.name,
            task="benchmark",
            encoder="one_hot" if shape.tokens else "none",
            inputs=shape.inputs,
            hidden=shape.hidden,
            layers=shape.layers,
            outputs=shape.outputs,
            vocabulary=tuple("BTSXPVE") if shape.tokens else (),
        )
    )


def export(network: "Network", form: Form, path: Path, weights: Weights = "float32") -> None:
    """Write an artifact without the proof that it is right: its weights are noise, and the proof takes a minute."""
    import torch

    from gatestream.export import artifact, exporter
    from gatestream.export.rewriting.narrow import narrow

    torch.set_num_threads(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    model = exporter.build(network, form)
    narrow(model, weights)
    draft = path.with_suffix(".draft")
    artifact.save(model, exporter.spec_of(network, form, weights), draft)
    draft.replace(path)


if __name__ == "__main__":
    for argument in sys.argv[2:]:
        name, form, weights = cast(File, argument.split("-"))
        export(network(SHAPES[name]), form, Path(sys.argv[1]) / f"{argument}.onnx", weights)

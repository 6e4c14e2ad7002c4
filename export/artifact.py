"""An artifact: an ONNX file and what it says of itself."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from gatestream.export.errors import ArtifactError, NoGatesError
from gatestream.export.finder.structure import Structure
from gatestream.export.graph.initializers import TRANSPOSED, constant
from gatestream.files.reading import read
from gatestream.protos import spec as specs
from gatestream.protos.bounds import LARGEST_FILE, BoundsError, check_bounds
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.roles import BY_SYMBOL, Array
from gatestream.protos.weights import intact_fingerprint

OUTSIDE_CELLS = ("encoder.", "head.")
"""How the names of weights begin that belong to no cell."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """What was read from a file.

    Attributes:
        path: where it was read from.
        model: its graph.
        spec: what its metadata says that the graph means.
        size: of the file, bytes.
    """

    path: Path
    model: ir.Model
    spec: pb.ModelSpec
    size: int

    def gates(self) -> tuple[pb.GateSpec, ...]:
        """The gates whose activations the file puts out.

        Raises:
            NoGatesError: it is of form `fused`.
        """
        if self.spec.form == pb.FORM_FUSED:
            raise NoGatesError(
                f"{self.path}: form fused keeps its gates inside the LSTM operator; "
                "export the checkpoint with --form gates to see them"
            )
        return tuple(self.spec.gates)


def load(path: Path | str) -> Artifact:
    """Read a file and its spec.

    Raises:
        FileNotFoundError: there is none.
        ArtifactError: it is not an ONNX file.
        SpecError: it has no spec that this version can read.
    """
    path = Path(path)
    return of(*parse(path), path)


def parse(path: Path) -> tuple[onnx.ModelProto, int]:
    """What is in an ONNX file, whoever made it, and its size in bytes.

    Raises:
        FileNotFoundError: there is none.
        ArtifactError: it is not an ONNX file.
    """
    try:
        data = read(path, LARGEST_FILE)
        return onnx.load_model_from_string(data), len(data)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; make one with `gatestream export`") from None
    except OSError:
        raise
    except Exception as error:  # protobuf raises whatever the bytes lead it to
        raise ArtifactError(f"{path}: not an ONNX model: {error}") from error


def of(proto: onnx.ModelProto, size: int, path: Path) -> Artifact:
    """The artifact that a file holds.

    Args:
        proto: what is in the file.
        size: of the file, bytes.
        path: of the file.

    Raises:
        ArtifactError: it has parts that are too large, or no graph that can be read.
        SpecError: it has no spec that this version can read.
    """
    try:
        check_bounds(proto, str(path))
        model = ir.from_proto(proto)
    except BoundsError as error:
        raise ArtifactError(str(error)) from error
    except Exception as error:  # onnx_ir raises whatever the bytes lead it to
        raise ArtifactError(f"{path}: not an ONNX model: {error}") from error
    return Artifact(path, model, specs.from_metadata(model.metadata_props, str(path)), size)


def save(model: ir.Model, spec: pb.ModelSpec, path: Path) -> None:
    """Write a model with its spec in one file, weights and all.

    Raises:
        OSError: it cannot be written.
    """
    model.metadata_props[specs.KEY] = specs.to_json(spec)
    path.write_bytes(ir.to_proto(model).SerializeToString())


def stored_fingerprint(model: ir.Model) -> str:
    """`ModelSpec.stored_fingerprint` of a graph as it is at this moment."""
    initializers = model.graph.initializers.items()
    return intact_fingerprint({name: value.const_value.numpy() for name, value in initializers if value.const_value})


def weights(model: ir.Model, structure: Structure) -> dict[str, Array]:
    """The weights by the names that the checkpoint has for them, however the file stores them.

    The weights of the cells are named after the parts in which data flow found them, not after their
    initializers.
    """
    found: dict[str, Array] = {}
    for layer, cell in enumerate(structure.cells):
        for symbol, gate in cell.gates.items():
            prefix = f"cells.{layer}.{BY_SYMBOL[symbol].module}"
            found |= {f"{prefix}.W": gate.W.array, f"{prefix}.R": gate.R.array, f"{prefix}.b": gate.b.array}
    for name, value in model.graph.initializers.items():
        stored = constant(value)
        if name.startswith(OUTSIDE_CELLS) and stored is not None:
            array = stored.astype(np.float32, copy=False)
            found[name.removesuffix(TRANSPOSED)] = array.T if name.endswith(TRANSPOSED) else array
    return found

"""From a module of the user's to its artifact, proved against the module itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import gatestream
from gatestream.export import artifact
from gatestream.export.artifact import stored_fingerprint
from gatestream.export.errors import SourceError, StatelessError
from gatestream.export.proof.report import Report, VerificationError
from gatestream.export.proof.streamed import Named
from gatestream.export.proof.streaming import prove
from gatestream.export.rewriting.reform import Form, reform
from gatestream.export.sources import signature as signatures
from gatestream.export.sources import unexposed
from gatestream.export.sources.arguments import described
from gatestream.export.sources.checkpoint import OPSET
from gatestream.export.sources.ports import Port
from gatestream.export.sources.recurrent import Recurrent, called, kind
from gatestream.export.sources.streamed import Streamed
from gatestream.export.sources.tracing import after, trace
from gatestream.files.writing import replacing
from gatestream.protos import spec as specs
from gatestream.protos.dtypes import DTYPES
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.weights import fingerprint

_DTYPES = {getattr(torch, dtype.name): known for known, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was made of a module.

    Attributes:
        spec: what the file says of itself.
        report: what was verified.
    """

    spec: pb.ModelSpec
    report: Report


def export_module(
    module: nn.Module,
    path: Path | str,
    *,
    inputs: Sequence[str] = (),
    states: Sequence[str] = (),
    outputs: Sequence[str] = (),
    length: str = "",
    constants: Mapping[str, Any] = MappingProxyType({}),
    form: Form | None = None,
    stateless: bool = False,
    name: str = "",
    version: str = "1",
    source: str = "",
) -> Exported:
    """Write a module of torch as an artifact, and prove that it is the same module.

    States that `forward` takes and gives back, and those of every recurrent layer of torch's inside that nobody carries
    (`nn.LSTM`, `nn.GRU`, `nn.RNN` and their cells), become states of a session. The module is left in evaluation mode.

    The file appears at `path` when everything was proved, and only then; one that is there stays until it is replaced.

    Args:
        module: what to export, with its weights.
        path: where the artifact goes.
        inputs: what `forward` takes each step, as in "x:float32[40]": see `signature.read`. None: as the module's
            method `example_inputs(batch, time)` shows it.
        states: what it takes and gives back, as in "h:float32[batch,64]". None: as `initial_state(batch)` shows it.
        outputs: what the outputs are called; none: "y", or as `forward` calls them.
        length: the parameter of `forward` that takes how many steps each row has.
        constants: what else it takes. "speaker:float32[64]" with None: every session is given it once, when it opens;
            with a value: each row has that for good. A name alone with a value: it is passed as it is.
        form: "gates" shows the equations of every LSTM and GRU layer and puts their gates out; "fused" is their
            operators; None: as they come, which is operators where torch has a layer, and equations for cells.
        stateless: take a module that carries nothing from one step to the next.
        name: of the model; empty: that of the file.
        version: what the server calls this version of the model.
        source: where the module comes from, "package.module:factory"; empty: its class.

    Returns:
        What was made and verified.

    Raises:
        SourceError: it cannot be called or exported.
        NotStreamableError: it cannot take one step at a time: it has no state, runs backwards, looks ahead, mixes
            rows, or keeps a state that nobody carries. One line says which part of it does.
        StructureError: `form` is given, and there is no LSTM or GRU in it, or one that cannot be shown.
        VerificationError: the file is not the same module; its `report` says where they differ.
        OSError: the file cannot be written.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise SourceError(
            f"{described(module)} is TorchScript, which torch.export does not take: make the class that it was "
            "scripted from, or have torch.onnx.export(..., dynamo=False) write it and `gatestream adopt` that file"
        )
    for part, each in module.named_modules():
        if type(each).__module__.startswith("torch.ao.nn.quantized"):
            raise SourceError(
                f"{called(part, each)} is quantised, and torch.export cannot trace it: export the module as it is "
                "before quantize_dynamic"
            )
    module.eval()
    streamed = Streamed(module, signatures.read(module, inputs, states, length, constants), outputs)
    if len(streamed.states) == len(streamed.signature.constants) and not stateless:
        raise StatelessError(
            f"{described(module)} has no state: forward takes and gives back none, and there is no recurrent layer in "
            "it that starts anew at each call; say those that forward takes with --state, make what it hands on in a "
            "loop of its own an argument and a result of it, or export it as it is with --stateless"
        )
    unexposed.check(streamed)
    made = trace(streamed)
    path = Path(path)
    spec = _spec(streamed, name or path.name.partition(".")[0], version, source, made.rewritten)
    spec.stored_fingerprint = stored_fingerprint(made.model)
    if form is not None:
        reform(made.model, spec, form)
    with replacing(path) as draft:
        artifact.save(made.model, spec, draft)
        proof = prove(draft, _Module(streamed))
        try:
            proof.report.raise_for_failure()
        except VerificationError as error:
            if length and "differs from torch" in str(error):
                raise SourceError(
                    f"{described(module)}: {error}; where forward sorts the rows by '{length}', they are parted from "
                    "their states: pack them as they come, with enforce_sorted=False"
                ) from error
            if not made.rows_frozen:
                raise
            raise SourceError(
                f"{described(module)} is written for one number of rows, which was frozen when it was traced (a loop "
                f"over rows, or int() of their number): take it from x.shape ({error})"
            ) from error
        spec.promises.rows_independent = proof.rows_independent
        spec.promises.replay_bit_equal = proof.replay_bit_equal
        spec.parity.extend(proof.report.parity())
        artifact.save(made.model, spec, draft)
    return Exported(spec, proof.report)


class _Module:
    """The module itself, as what its file is compared with."""

    name = "torch"

    def __init__(self, streamed: Streamed) -> None:
        self._streamed = streamed

    def whole(self, inputs: Named, constants: Named) -> Named:
        """The outputs of new sessions.

        Of a module that gives its last step alone, those of its steps: `unexposed.check` has found them to be what it
        gives for each beginning, of which there would be too many here.
        """
        tensors = self._inputs(inputs)
        given = [torch.from_numpy(np.array(constants[port.name])) for port in self._streamed.signature.constants]
        if self._streamed.timed:
            return self._outputs(self._streamed.whole(tensors, given))
        return self._outputs(self._streamed.run(tensors, self._streamed.start(given, len(tensors[0])))[0])

    def step(self, inputs: Named, states: Named) -> tuple[Named, Named]:
        """One step of each row from given states."""
        before = [torch.from_numpy(np.array(states[port.name])) for port in self._streamed.states]
        outputs, following = self._streamed.run(self._inputs(inputs), before)
        names = [port.name for port in self._streamed.states]
        return self._outputs(outputs), {name: each.numpy() for name, each in zip(names, following, strict=True)}

    def _inputs(self, inputs: Named) -> list[Tensor]:
        return [torch.from_numpy(np.array(inputs[port.name])) for port in self._streamed.signature.inputs]

    def _outputs(self, outputs: Sequence[Tensor]) -> Named:
        names = [each.port.name for each in self._streamed.outputs]
        return {name: each.numpy() for name, each in zip(names, outputs, strict=True)}


def _spec(streamed: Streamed, name: str, version: str, source: str, rewritten: Sequence[str]) -> pb.ModelSpec:
    """What the file says of itself, as yet without what the proof finds."""
    module = streamed.module
    floats = {key: each for key, each in module.state_dict().items() if each.dtype.is_floating_point}
    return pb.ModelSpec(
        contract=specs.CONTRACT_ANY,
        name=name,
        version=version,
        description=f"{described(module)}, a module of torch",
        inputs=[
            pb.TensorSpec(name=port.name, dtype=_DTYPES[port.dtype], shape=port.shape, limit=port.limit)
            for port in streamed.signature.inputs
        ],
        outputs=[
            pb.TensorSpec(name=each.port.name, dtype=_DTYPES[each.port.dtype], shape=each.port.shape)
            for each in streamed.outputs
        ],
        states=[
            *(_state(port) for port in streamed.signature.states),
            *(_state(port, role) for each in streamed.recurrents for port, role in _roles(each)),
            *(_state(port) for each in streamed.loops for port in each.states),
            *(_state(port, pb.STATE_ROLE_CONSTANT) for port in streamed.signature.constants),
        ],
        opset=OPSET,
        torch_version=torch.__version__,
        gatestream_version=gatestream.__version__,
        weights_fingerprint=fingerprint({key: each.detach().float().numpy() for key, each in floats.items()}),
        cells=[cell for each in streamed.recurrents for cell in _cells(each)],
        source=pb.Source(
            name=source or f"{type(module).__module__}:{type(module).__qualname__}",
            producer=f"pytorch {torch.__version__}",
            opset=OPSET,
            tensors=_tensors(streamed),
            rewritten=rewritten,
        ),
    )


def _roles(recurrent: Recurrent) -> list[tuple[Port, pb.StateRole]]:
    return list(zip(recurrent.states, (pb.STATE_ROLE_HIDDEN, pb.STATE_ROLE_CELL), strict=False))


def _state(port: Port, role: pb.StateRole = pb.STATE_ROLE_UNSPECIFIED) -> pb.StateSpec:
    start = port.start(1)[0].numpy()
    same = bool((start == start.flat[0]).all())
    return pb.StateSpec(
        input=port.name,
        output=after(port),
        dtype=_DTYPES[port.dtype],
        shape=port.shape,
        initial=float(start.flat[0]) if same else 0.0,
        initial_values=b"" if same else start.astype(start.dtype.newbyteorder("<")).tobytes(),
        role=role,
        required=role == pb.STATE_ROLE_CONSTANT,
        limit=port.limit,
    )


def _cells(recurrent: Recurrent) -> list[pb.CellSpec]:
    """One for each layer, in the order in which data reaches them."""
    layer = recurrent.layer
    count = layer.num_layers if isinstance(layer, nn.RNNBase) else 1
    name = recurrent.name or type(layer).__name__.lower()
    assert isinstance(layer, nn.RNNBase | nn.RNNCellBase)  # what `recurrent.layers` finds
    return [
        pb.CellSpec(
            name=f"{name}.{k}" if count > 1 else name,
            kind=kind(layer),
            hidden=layer.hidden_size,
            states=[port.name for port in recurrent.states],
            linear_before_reset=kind(layer) == pb.CELL_KIND_GRU,
        )
        for k in range(count)
    ]


def _tensors(streamed: Streamed) -> list[pb.SourceTensor]:
    """What each of the module's inputs and outputs was found to be."""
    found = [_tensor(port, "input", port.name, "what forward takes") for port in streamed.signature.inputs]
    found += [
        _tensor(port, "state", port.name, "what forward takes and gives back") for port in streamed.signature.states
    ]
    for each in streamed.recurrents:
        layer = f"{type(each.layer).__name__} '{each.name}'" if each.name else f"the {type(each.layer).__name__}"
        how = f"of {layer}, which starts anew at each call"
        found += [_tensor(port, "state", port.name, how) for port in each.states]
    for loop in streamed.loops:
        how = f"what a loop in forward gives {called(loop.name, loop.module)} for the next step"
        found += [_tensor(port, "state", port.name, how) for port in loop.states]
    found += [
        _tensor(port, "constant", port.name, "what a session is given once") for port in streamed.signature.constants
    ]
    found += [
        pb.SourceTensor(name=name, role="constant", batch_axis=-1, time_axis=-1, found="one value for good")
        for name in streamed.signature.fixed
    ]
    return found + [_tensor(each.port, "output", each.port.name, "what forward gives") for each in streamed.outputs]


def _tensor(port: Port, role: str, becomes: str, how: str) -> pb.SourceTensor:
    shape = list(port.shape)
    for axis in sorted(axis for axis in (port.batch_axis, port.time_axis) if axis is not None):
        shape.insert(axis, -1)
    return pb.SourceTensor(
        name=port.name,
        role=role,
        shape=shape,
        batch_axis=port.batch_axis,
        time_axis=-1 if port.time_axis is None else port.time_axis,
        becomes=becomes,
        found=how,
    )

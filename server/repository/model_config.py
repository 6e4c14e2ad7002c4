"""The config.pbtxt that other servers keep beside a model: what it says that counts here, and what is ignored of it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from google.protobuf import text_format

from gatestream.files.reading import read
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.protos.inference import model_config_pb2 as config_pb
from gatestream.protos.layout import ModelLayout, State
from gatestream.server.backend.artifact import Artifact
from gatestream.server.errors import ArtifactError, cut
from gatestream.server.repository.adopt_flags import KEY, adopt_flags
from gatestream.server.repository.pbtxt import known_part

FILE: Final = "config.pbtxt"
MODEL_FILE: Final = "model.onnx"

_LARGEST: Final = 2**20
_INITIAL_STATE: Final = "initial_state"
_PLATFORMS: Final = ("", "onnxruntime_onnx")
_BACKENDS: Final = ("", "onnxruntime")
_TYPES: Final[Mapping[int, np.dtype[Any]]] = {
    number: np.dtype(name)
    for number, name in (
        (config_pb.TYPE_BOOL, "bool"),
        (config_pb.TYPE_UINT8, "uint8"),
        (config_pb.TYPE_INT8, "int8"),
        (config_pb.TYPE_INT16, "int16"),
        (config_pb.TYPE_INT32, "int32"),
        (config_pb.TYPE_INT64, "int64"),
        (config_pb.TYPE_FP16, "float16"),
        (config_pb.TYPE_FP32, "float32"),
        (config_pb.TYPE_FP64, "float64"),
    )
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What is known of a model besides its files.

    Attributes:
        path: of the config.pbtxt; None: there is none.
        message: what it says.
        ignored: the fields of it that mean nothing here, by their names, with dots.
        adopt: flags of `gatestream adopt` for its files.
    """

    path: Path | None = None
    message: config_pb.ModelConfig = field(default_factory=config_pb.ModelConfig)
    ignored: Sequence[str] = ()
    adopt: Sequence[str] = ()

    @classmethod
    def load(cls, path: Path, name: str) -> "ModelConfig":
        """Read one.

        Args:
            path: of the file.
            name: of the model that it stands with.

        Raises:
            ArtifactError: it cannot be read, or says what cannot be done here.
        """
        try:
            found = known_part(read(path, _LARGEST).decode(), config_pb.ModelConfig.DESCRIPTOR)
            message = text_format.Parse(found.text, config_pb.ModelConfig())
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
        except (text_format.ParseError, UnicodeDecodeError, RecursionError) as error:
            raise ArtifactError(f"{path}: is no model configuration: {cut(' '.join(str(error).split()))}") from error
        for what, value, known in (
            ("name", message.name, ("", name)),
            ("platform", message.platform, _PLATFORMS),
            ("backend", message.backend, _BACKENDS),
        ):
            if value not in known:
                raise ArtifactError(f"{path}: {what} is {cut(value)!r}; expected {known[-1]!r}, or none")
        if message.max_batch_size < 0:
            raise ArtifactError(f"{path}: max_batch_size is {message.max_batch_size}; expected 0 or more")
        if message.default_model_filename and not _is_file_name(message.default_model_filename):
            raise ArtifactError(
                f"{path}: default_model_filename is {cut(message.default_model_filename)!r}; expected the name of a "
                "file in the version's folder"
            )
        try:
            adopt = adopt_flags(message.parameters[KEY].string_value) if KEY in message.parameters else ()
        except ValueError as error:
            raise ArtifactError(f"{path}: the parameter {KEY!r}: {error}") from error
        others = (f"parameters.{cut(key)}" for key in sorted(message.parameters) if key != KEY)
        return cls(path, message, (*found.unknown, *others), adopt)

    @property
    def file(self) -> str:
        """What the model's file is called in a version's folder."""
        return self.message.default_model_filename or MODEL_FILE

    def wanted(self, versions: Sequence[str]) -> tuple[Sequence[str], int]:
        """Which versions are to be served from the start: any of these, the earlier the rather, and how many of them.

        Args:
            versions: that there are, the oldest first.
        """
        policy = self.message.version_policy
        newest = list(versions)[::-1]
        kind = policy.WhichOneof("policy_choice")
        if kind == "specific":
            newest = [version for version in newest if int(version) in policy.specific.versions]
        if kind in ("specific", "all"):
            return newest, len(newest)
        return newest, max(1, policy.latest.num_versions)

    def flags(self) -> list[str]:
        """What `gatestream adopt` is to be told of a file."""
        states = self.message.sequence_batching.state
        return [*(f"--state={state.input_name}={state.output_name}" for state in states), *self.adopt]

    def applied(self, artifact: Artifact) -> Artifact:
        """An artifact, with the initial states that are given here.

        Raises:
            ArtifactError: the two do not go together.
        """
        for wrong in self._wrongs(artifact):
            raise ArtifactError(f"{self.path}: {wrong}")
        spec = pb.ModelSpec()
        spec.CopyFrom(artifact.spec)
        states = {state.input: state for state in spec.states}
        for given in self.message.sequence_batching.state:
            if given.initial_state:
                state = states[_becomes(spec).get(given.input_name, given.input_name)]
                self._set_initial(state, given)
        return replace(artifact, spec=spec)

    def _set_initial(self, state: pb.StateSpec, given: config_pb.State) -> None:
        initial = given.initial_state[0]
        state.initial, state.initial_values = 0.0, b""
        if not initial.data_file:
            return
        name = initial.data_file
        assert self.path is not None, "it was read from somewhere"
        if not _is_file_name(name):
            raise ArtifactError(f"{self.path}: data_file is {cut(name)!r}; expected the name of a file")
        path = self.path.parent / _INITIAL_STATE / name
        (layout,) = ModelLayout.of(pb.ModelSpec(states=[state])).states
        try:
            if not path.resolve(strict=True).is_relative_to(self.path.parent.resolve()):
                raise ArtifactError(f"{path}: is a link that leaves {self.path.parent}")
            values = read(path, _LARGEST * 8)
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
        if len(values) != layout.row_bytes:
            raise ArtifactError(
                f"{path}: has {len(values)} bytes; the state {state.input!r} has {list(state.shape)} of "
                f"{layout.dtype}, {layout.row_bytes} bytes"
            )
        state.initial_values = values

    def _wrongs(self, artifact: Artifact) -> Iterator[str]:
        """What it says that the artifact does not."""
        spec, layout, message = artifact.spec, artifact.layout, self.message
        becomes = _becomes(spec)
        sources = {tensor.name: tensor for tensor in spec.source.tensors}
        own: dict[str, tuple[Any, list[int]]] = {
            column.name: (column.dtype, [-1, -1, *column.shape]) for column in (*layout.inputs, *layout.outputs)
        }
        own |= {state.name: (state.dtype, [-1, *state.shape]) for state in layout.states}
        own |= {state.after: (state.dtype, [-1, *state.shape]) for state in layout.states}
        named = [("input", item) for item in message.input] + [("output", item) for item in message.output]
        for what, item in named:
            if any(dim < 1 and dim != -1 for dim in item.dims):
                yield f"{what} {cut(item.name)!r} has the dims {list(item.dims)}; expected 1 or more, or -1"
                return
            name = becomes.get(item.name, item.name)
            if name not in own and item.name not in sources and item.name != spec.length_input:
                yield f"it names the {what} {cut(item.name)!r}; the model has {sorted(sources) or sorted(own)}"
                return
            shape = list(sources[item.name].shape) if item.name in sources else own.get(name, (None, None))[1]
            if shape is not None and not self._agrees(list(item.dims), shape):
                yield f"{what} {cut(item.name)!r} has the dims {list(item.dims)}; the file's are {shape}"
            dtype = own[name][0] if name in own else None
            if dtype is not None and item.data_type and _TYPES.get(item.data_type) != dtype:
                yield f"{what} {cut(item.name)!r} is {config_pb.DataType.Name(item.data_type)}; the file's is {dtype}"
        states = {state.name: state for state in layout.states}
        for given in message.sequence_batching.state:
            pair = [becomes.get(name, name) for name in (given.input_name, given.output_name)]
            if pair[0] not in states or states[pair[0]].after != pair[1]:
                there = ", ".join(f"{state.name} to {state.after}" for state in layout.states)
                names = f"{cut(given.input_name)!r} to {cut(given.output_name)!r}"
                yield f"its state goes from {names}; the model has {there}"
                return
            yield from _wrongs_of_state(given, states[pair[0]])
        inputs = [given.input_name for given in message.sequence_batching.state]
        if twice := [name for name in dict.fromkeys(inputs) if inputs.count(name) > 1]:
            yield f"state {cut(twice[0])!r} stands there more than once"

    def _agrees(self, dims: Sequence[int], shape: Sequence[int]) -> bool:
        """Whether dims, which leave the batch out where there is one to leave out, go with a shape."""
        if not dims:
            return True
        whole = [-1, *dims] if self.message.max_batch_size else list(dims)
        return len(whole) == len(shape) and all(a < 0 or b < 0 or a == b for a, b in zip(whole, shape, strict=True))


def _wrongs_of_state(given: config_pb.State, state: State) -> Iterator[str]:
    """What a configuration says of a state that is not so."""
    said, size = f"state {cut(given.input_name)!r}", math.prod(state.shape)
    both: list[config_pb.State | config_pb.InitialState] = [given, *given.initial_state]
    for each in both:
        what = said if each is given else f"the initial state of {said}"
        if each.data_type and _TYPES.get(each.data_type) != state.dtype:
            yield f"{what} is {config_pb.DataType.Name(each.data_type)}; the file's is {state.dtype}"
        sizes = [dim for dim in each.dims if dim != -1]
        fits = size % math.prod(sizes) == 0 if min(sizes, default=1) > 0 else False
        if not fits or (len(sizes) == len(each.dims) > 0 and math.prod(sizes) != size):
            yield f"{what} has the dims {list(each.dims)}; the model's has {size} numbers"
    if len(given.initial_state) > 1:
        yield f"{said} has {len(given.initial_state)} initial states; expected one"
    for initial in given.initial_state:
        if not (initial.zero_data or initial.data_file):
            yield f"the initial state of {said} is to have zero_data: true, or a data_file; it has neither"


def _is_file_name(name: str) -> bool:
    return "/" not in name and name not in (".", "..") and name.isprintable()


def _becomes(spec: pb.ModelSpec) -> dict[str, str]:
    return {tensor.name: tensor.becomes for tensor in spec.source.tensors if tensor.becomes}

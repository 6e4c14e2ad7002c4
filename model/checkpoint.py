"""A network, and where its training stands, in one safetensors file.

The weights are stored under the names of their parameters (`cells.0.forget_gate.R`), training's own tensors
under `training.`; the file's metadata holds the network's configuration and training's other values as JSON.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from gatestream.files.writing import write
from gatestream.model.network import Network, NetworkConfig
from gatestream.model.weights import WeightsError, require_same

FORMAT = "1"
_FORMAT_KEY, _CONFIG_KEY, _TRAINING_KEY = "gatestream.checkpoint", "gatestream.config", "gatestream.training"
_PREFIX = "training."


class CheckpointError(ValueError):
    """A file is not a checkpoint that can be read; the message says why and what to do."""


@dataclass(slots=True)
class TrainingState:
    """What training needs to go on as if it had never stopped.

    Attributes:
        tensors: optimiser moments, carried states, generator states.
        values: everything else, as JSON can hold it.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What `load` found: the network, and the state of its training (empty: it was not trained here)."""

    network: Network
    training: TrainingState


def save(path: Path | str, network: Network, training: TrainingState | None = None) -> None:
    """Write a checkpoint; whoever reads `path` finds the old file or the new one, never a part.

    Raises:
        OSError: the file cannot be written.
    """
    training = training or TrainingState()
    tensors = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    tensors |= {_PREFIX + name: tensor.detach().contiguous() for name, tensor in training.tensors.items()}
    metadata = {
        _FORMAT_KEY: FORMAT,
        _CONFIG_KEY: network.config.to_json(),
        _TRAINING_KEY: json.dumps(training.values),
    }
    write(Path(path), serialise(tensors, metadata))


def load(path: Path | str) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: the file is damaged, is not a checkpoint, or its tensors do not fit its
            configuration; missing and unexpected names and wrong shapes are listed.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint; make one with `gatestream train`")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file, or a damaged one: {error}") from error
    if metadata.get(_FORMAT_KEY) != FORMAT:
        raise CheckpointError(
            f"{path}: checkpoint format {metadata.get(_FORMAT_KEY)!r}, this version reads {FORMAT!r}; "
            "train again, or use the version that wrote it"
        )
    try:
        config = NetworkConfig.from_json(metadata[_CONFIG_KEY])
        values = json.loads(metadata[_TRAINING_KEY])
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata cannot be read: {error}") from error
    training = TrainingState(
        {name.removeprefix(_PREFIX): tensors.pop(name) for name in list(tensors) if name.startswith(_PREFIX)},
        values,
    )
    _check_sizes(config, tensors, path)
    with torch.device("meta"):  # shapes alone
        parameters = Network(config).state_dict()
    try:
        require_same({name: tensor.shape for name, tensor in parameters.items()}, tensors, str(path))
    except WeightsError as error:
        raise CheckpointError(f"its tensors do not fit its configuration: {error}") from error
    network = Network(config)
    network.load_state_dict(tensors)
    return Checkpoint(network, training)


def _check_sizes(config: NetworkConfig, tensors: dict[str, Tensor], path: Path | str) -> None:
    """Refuse a configuration that the tensors cannot fill, before anything of its size is made.

    Each unit of a width has at least one weight, each layer several tensors.
    """
    weights = sum(tensor.numel() for tensor in tensors.values())
    most = {"hidden": weights, "inputs": weights, "outputs": weights, "embedding": weights, "layers": len(tensors)}
    for width, bound in most.items():
        value = getattr(config, width)
        if type(value) is not int or value > bound:
            raise CheckpointError(
                f"{path}: its tensors do not fit its configuration: {width} is {value}, but it has {len(tensors)} "
                f"tensors of {weights} numbers in all"
            )

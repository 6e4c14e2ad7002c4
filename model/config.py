"""What a network is made of: everything but its weights."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Encoder = Literal["one_hot", "embedding", "linear", "none"]


class ConfigError(ValueError):
    """A network cannot be built like this; the message names the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """The shape of a network and the meaning of its numbers.

    Attributes:
        name: what the model is called where it is served.
        task: what it was made for: "reber", "text", "series", or a name of one's own.
        encoder: "one_hot" or "embedding" for token ids, "linear" or "none" for numbers.
        inputs: tokens in the vocabulary, or numbers per step.
        embedding: width that encoder "embedding" or "linear" maps to; 0 with the other two.
        hidden: width of each layer's h and c.
        layers: number of cells, one above another.
        outputs: numbers per step that come out.
        vocabulary: the token that each id stands for; empty where inputs are numbers.
        columns: names of the input numbers; empty for tokens.
        output_columns: names of the output numbers; empty for tokens.
        input_mean: subtracted from the inputs, in their units; empty: inputs are taken as they are.
        input_scale: what the inputs are divided by after that.
        output_mean: added to the outputs after they were multiplied by `output_scale`; empty: neither.
        output_scale: see `output_mean`.
    """

    name: str
    task: str
    encoder: Encoder
    inputs: int
    hidden: int
    outputs: int
    layers: int = 1
    embedding: int = 0
    vocabulary: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    output_columns: tuple[str, ...] = ()
    input_mean: tuple[float, ...] = ()
    input_scale: tuple[float, ...] = ()
    output_mean: tuple[float, ...] = ()
    output_scale: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ConfigError: a field is out of range, or two disagree.
        """
        if self.encoder not in get_args(Encoder):
            raise ConfigError(f"encoder: {self.encoder!r} is none of {', '.join(get_args(Encoder))}")
        for field in ("inputs", "hidden", "outputs", "layers"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field}: {getattr(self, field)}, expected at least 1")
        if (self.embedding > 0) != (self.encoder in ("embedding", "linear")):
            raise ConfigError(
                f"embedding: {self.embedding} with encoder {self.encoder!r}; a width of at least 1 goes with "
                "'embedding' and 'linear', 0 with the others"
            )
        for field, expected in (
            ("vocabulary", self.inputs if self.tokens else 0),
            ("columns", self.inputs),
            ("output_columns", self.outputs),
            ("input_mean", self.inputs),
            ("input_scale", self.inputs),
            ("output_mean", self.outputs),
            ("output_scale", self.outputs),
        ):
            if len(getattr(self, field)) not in (0, expected):
                raise ConfigError(f"{field}: {len(getattr(self, field))} entries, expected none or {expected}")
        for side in ("input", "output"):
            mean, scale = getattr(self, f"{side}_mean"), getattr(self, f"{side}_scale")
            if len(mean) != len(scale):
                raise ConfigError(f"{side}_scale: {len(scale)} entries, but {side}_mean has {len(mean)}")
            if any(not value > 0 for value in scale):
                raise ConfigError(f"{side}_scale: {min(scale)}, expected every entry above 0")
        if self.tokens and self.input_mean:
            raise ConfigError(f"input_mean: given with encoder {self.encoder!r}, but token ids have no mean")

    @property
    def tokens(self) -> bool:
        """Inputs are token ids, not numbers."""
        return self.encoder in ("one_hot", "embedding")

    @property
    def encoded(self) -> int:
        """Width of what the encoder hands to the first cell."""
        return self.embedding or self.inputs

    def to_json(self) -> str:
        """All fields, as a JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "NetworkConfig":
        """Read what `to_json` wrote.

        Raises:
            ConfigError: fields are missing, unexpected, or out of range.
            json.JSONDecodeError: not JSON.
        """
        values: Any = json.loads(text)
        if not isinstance(values, dict):
            raise ConfigError("not a JSON object")
        known = {field.name for field in fields(cls)}
        if unexpected := sorted(set(values) - known):
            raise ConfigError(f"unexpected fields: {', '.join(unexpected)}; made by a later version?")
        try:
            arguments: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
            return cls(**arguments)
        except TypeError as error:
            raise ConfigError(f"fields are missing or of a wrong type: {error}") from error

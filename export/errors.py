"""What can be wrong with an artifact.

::

    ArtifactError
    ├── ContractError       inputs, outputs or spec are not those of the contract
    ├── StructureError      the gates cannot be found, or are not what the spec calls them
    ├── FingerprintError    the weights are not those that were exported
    ├── ParityError         the numbers differ from a reference
    ├── AccuracyError       weights in fewer bits cost more accuracy than was allowed
    ├── PrecisionError      weights that cannot be stored in so few bits
    ├── NoGatesError        gates asked of a form that does not show them
    ├── SourceError         a file or module that was not made here cannot be read, or not be brought to the contract
    ├── AmbiguousError      what an input, an output or an axis is cannot be told from the file, nor by running it
    └── NotStreamableError  what it computes of a run is not what it computes of the run's steps
        └── StatelessError  it carries nothing from one step to the next
"""


class ArtifactError(ValueError):
    """An ONNX file is not the artifact that it should be; the message says what is wrong and where."""


class ContractError(ArtifactError):
    """The graph's inputs and outputs, or the file's spec, are not those of the contract."""


class StructureError(ArtifactError):
    """Data flow does not show an LSTM cell where one should be, or shows another than the spec describes."""


class FingerprintError(ArtifactError):
    """The file's weights are not those whose fingerprint the spec records."""


class ParityError(ArtifactError):
    """The model's numbers differ from a reference by more than the tolerance."""


class AccuracyError(ArtifactError):
    """Weights in fewer bits take the outputs further from the float32 network's than was allowed."""


class PrecisionError(ArtifactError):
    """Weights cannot be stored in so few bits, or not in this form."""


class NoGatesError(ArtifactError):
    """Gate activations were asked of form `fused`, whose operator keeps them to itself."""


class SourceError(ArtifactError):
    """A file or module that was not made here cannot be read, called or exported, or not be brought to the contract."""


class AmbiguousError(ArtifactError):
    """What an input, an output or an axis is cannot be told from the file, nor by running it."""


class NotStreamableError(ArtifactError):
    """What the model computes of a whole run is not what it computes of the run's steps, whatever is carried."""


class StatelessError(NotStreamableError):
    """The model carries nothing from one step to the next."""

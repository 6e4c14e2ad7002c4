"""Next-character model of any UTF-8 file."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatestream.model.config import NetworkConfig
from gatestream.model.tasks.task import DataError, Evaluation, Session, Window
from gatestream.model.tasks.walk import Walk

_JUDGED = 100_000  # characters: enough for two decimals, soon done


class Text:
    """A file as a task: predict the next character. The last tenth is held out to judge on.

    Args:
        path: the file.
        streams: streams to train on, side by side.
        steps: characters in a window.
        seed: of the places where sessions begin.

    Attributes:
        vocabulary: the file's distinct characters, sorted: the token ids are their places.
    """

    score_label = "bits per held-out character"

    def __init__(self, path: Path, streams: int, steps: int, seed: int) -> None:
        """Read the file.

        Raises:
            DataError: it is not UTF-8, holds NUL, or is too short.
            OSError: it cannot be read.
        """
        data = path.read_bytes()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{path}: not UTF-8 (byte {data[error.start]:#04x} at offset {error.start}) in line {line}; convert it "
                "first"
            ) from error
        if (nul := text.find("\0")) >= 0:
            raise DataError(f"{path}: a NUL character in line {text.count(chr(10), 0, nul) + 1}, which no text holds")
        # Marks of the encoding, wherever files were joined, and no characters of the text.
        text = text.replace("\ufeff", "")
        if len(text) < 10 * (steps + 1):
            raise DataError(
                f"{path}: {len(text)} characters, expected at least {10 * (steps + 1)} for windows of {steps} steps"
            )
        self.identity: dict[str, Any] = {
            "task": "text",
            "streams": streams,
            "steps": steps,
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        self.vocabulary = tuple(sorted(set(text)))
        token = {character: index for index, character in enumerate(self.vocabulary)}
        tokens = np.array([token[character] for character in text], dtype=np.int64)
        cut = len(tokens) * 9 // 10
        self._tokens, self._held_out = tokens[:cut], tokens[cut:][:_JUDGED]
        self._walk = Walk(cut, streams, steps, ahead=1, seed=seed)

    def config(self, name: str, hidden: int, layers: int) -> NetworkConfig:
        """Embedded characters in, a logit for each character out."""
        return NetworkConfig(
            name=name,
            task="text",
            encoder="embedding",
            embedding=min(32, len(self.vocabulary)),
            inputs=len(self.vocabulary),
            hidden=hidden,
            layers=layers,
            outputs=len(self.vocabulary),
            vocabulary=self.vocabulary,
        )

    def window(self) -> Window:
        """Go on by one window."""
        indices, fresh = self._walk.window()
        return Window(self._tokens[indices], self._tokens[indices + 1], fresh)

    def evaluate(self, sessions: Callable[[int], Session]) -> Evaluation:
        """Measure the cross-entropy on the held-out part, read from its beginning in a few sessions."""
        count = min(16, max(1, len(self._held_out) // 1000))
        pieces = self._held_out[: len(self._held_out) // count * count].reshape(count, -1)
        inputs, targets = pieces[:, :-1], pieces[:, 1:]
        session, nats = sessions(count), 0.0
        for begin in range(0, inputs.shape[1], 500):
            chunk = slice(begin, begin + 500)
            nats += _cross_entropy(session(inputs[:, chunk]), targets[:, chunk])
        bits = nats / targets.size / np.log(2)
        return Evaluation(
            score=bits, summary=f"{bits:.3f} bits per character on {targets.size:,} held out", solved=None
        )

    def state(self) -> dict[str, Any]:
        """Where the windows stand."""
        return self._walk.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken."""
        self._walk.restore(state)


def _cross_entropy(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Sum over all steps, in nats: logits [sessions, time, tokens], targets [sessions, time]."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(shifted, targets[..., None], axis=-1)[..., 0]
    return float((np.log(np.exp(shifted).sum(axis=-1)) - chosen).sum())

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gatestream.model.tasks.task import DataError, Session
from gatestream.model.tasks.text import Text

PHRASE = "größe\r\n→ abc"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "a.txt"
    file.write_bytes((PHRASE * 200).encode())
    return file


def test_tokens_stand_for_the_distinct_characters(path: Path) -> None:
    task = Text(path, streams=4, steps=10, seed=0)
    config = task.config("prose", hidden=16, layers=2)
    assert config.vocabulary == tuple(sorted(set(PHRASE)))
    assert (config.inputs, config.outputs, config.embedding) == (12, 12, 12)
    assert (config.name, config.task, config.encoder) == ("prose", "text", "embedding")
    window = task.window()
    assert "".join(task.vocabulary[token] for token in window.inputs[0]) == PHRASE[:10]
    assert "".join(task.vocabulary[token] for token in window.targets[0]) == PHRASE[1:11]


def test_the_last_tenth_is_never_trained_on(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("a" * 900 + "b" * 100)
    task = Text(file, streams=4, steps=10, seed=0)
    for _ in range(300):
        window = task.window()
        assert not window.inputs.any()
        assert not window.targets.any()


def test_an_even_guess_costs_the_logarithm_of_the_vocabulary(path: Path) -> None:
    def even(batch: int) -> Session:
        del batch
        return lambda inputs: np.full((*inputs.shape, 12), 3.0, dtype=np.float32)

    evaluation = Text(path, streams=4, steps=10, seed=0).evaluate(even)
    assert evaluation.score == pytest.approx(np.log2(12))
    assert evaluation.solved is None


def test_a_certain_guess_costs_nothing(path: Path) -> None:
    task = Text(path, streams=4, steps=10, seed=0)
    following = {PHRASE[k]: PHRASE[(k + 1) % len(PHRASE)] for k in range(len(PHRASE))}

    def certain(batch: int) -> Session:
        del batch

        def session(inputs: NDArray[Any]) -> NDArray[np.float32]:
            logits = np.zeros((*inputs.shape, 12), dtype=np.float32)
            for place in np.ndindex(*inputs.shape):
                after = following[task.vocabulary[inputs[place]]]
                logits[*place, task.vocabulary.index(after)] = 50
            return logits

        return session

    assert task.evaluate(certain).score == pytest.approx(0, abs=1e-9)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"caf\xe9 " * 1000)
    with pytest.raises(DataError, match=r"a.txt: not UTF-8 \(byte 0xe9 at offset 3\)"):
        Text(file, streams=4, steps=10, seed=0)


def test_a_byte_order_mark_is_no_token_wherever_files_were_joined(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(("\ufeffab" * 500).encode())
    assert Text(file, streams=4, steps=10, seed=0).vocabulary == ("a", "b")


def test_nul_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"abc\n" * 500 + b"a\0b\n" * 500)
    with pytest.raises(DataError, match=r"a.txt: a NUL character in line 501, which no text holds"):
        Text(file, streams=4, steps=10, seed=0)


def test_too_short_a_text(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("short")
    with pytest.raises(DataError, match=r"5 characters, expected at least 110 for windows of 10 steps"):
        Text(file, streams=4, steps=10, seed=0)


def test_the_shortest_text_will_do(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("ab" * 55)
    task = Text(file, streams=4, steps=10, seed=0)
    assert task.window().inputs.shape == (4, 10)
    assert task.evaluate(lambda _: lambda inputs: np.zeros((*inputs.shape, 2), np.float32)).score == 1.0


def test_a_changed_file_is_another_run(path: Path) -> None:
    before = Text(path, streams=4, steps=10, seed=0).identity
    path.write_bytes((PHRASE * 201).encode())
    assert Text(path, streams=4, steps=10, seed=0).identity != before

import itertools
import re
import subprocess
import sys
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from gatestream.model.tasks.reber import SYMBOLS, Reber, Streams, illegal, margin, stream
from gatestream.model.tasks.task import Session

# The grammar once more, as a regular expression derived by hand from the picture in the literature.
_AT_4 = "(?:XT*VP)*(?:S|XT*VV)"
_INNER = f"B(?:TS*X{_AT_4}|PT*V(?:V|P{_AT_4}))E"
STRING = re.compile(f"BT{_INNER}TE|BP{_INNER}PE")


def letters(tokens: NDArray[np.int64]) -> str:
    return "".join(SYMBOLS[token] for token in tokens)


def strings(symbols: str) -> list[str]:
    """The whole strings of a stream. In the embedded grammar, EB stands nowhere but between two of them."""
    return [f"B{string}E" for string in symbols[1 : symbols.rindex("EB")].split("EB")]


@pytest.mark.parametrize("linger", [0.5, 0.9])
def test_streams_are_strings_of_the_grammar_one_after_another(linger: float) -> None:
    symbols, _, _ = Streams(4, 1, linger).take(20_000)
    for row in symbols:
        assert all(STRING.fullmatch(string) for string in strings(letters(row)))


def test_legal_is_exactly_what_can_follow() -> None:
    symbols, following, legal = Streams(64, 2).take(10_000)
    seen: dict[str, set[str]] = defaultdict(set)
    times: dict[str, int] = defaultdict(int)
    told: dict[str, frozenset[str]] = {}
    for row, after, mask in zip(symbols, following, legal, strict=True):
        text = letters(row)
        begin = 0
        for k in range(len(text)):
            if text[k - 1 : k + 1] == "EB":
                begin = k
            prefix = text[begin : k + 1]
            may = frozenset(itertools.compress(SYMBOLS, mask[k]))
            assert told.setdefault(prefix, may) == may
            assert SYMBOLS[after[k]] in may
            seen[prefix].add(SYMBOLS[after[k]])
            times[prefix] += 1
    often = [prefix for prefix, count in times.items() if count >= 50]
    assert len(often) > 200
    assert all(seen[prefix] == told[prefix] for prefix in often)


def test_what_follows_is_the_next_symbol() -> None:
    symbols, following, _ = Streams(3, 3).take(50)
    np.testing.assert_array_equal(symbols[:, 1:], following[:, :-1])


def test_both_branches_and_both_ways_are_equally_likely() -> None:
    whole = [string for row in Streams(16, 4).take(10_000)[0] for string in strings(letters(row))]
    assert np.mean([string[1] == "T" for string in whole]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([string[3] == "T" for string in whole]) == pytest.approx(0.5, abs=0.02)
    loops = [len(match[1]) for string in whole for match in re.finditer("BT(S*)X", string[2:])]
    assert np.mean(loops) == pytest.approx(1, abs=0.06)


def test_lingering_streams_have_longer_loops() -> None:
    whole = [string for row in Streams(16, 4, linger=0.8).take(10_000)[0] for string in strings(letters(row))]
    loops = [len(match[1]) for string in whole for match in re.finditer("BT(S*)X", string[2:])]
    assert np.mean(loops) == pytest.approx(4, abs=0.4)
    assert np.mean([string[1] == "T" for string in whole]) == pytest.approx(0.5, abs=0.04)


@settings(max_examples=30)
@given(pieces=st.lists(st.integers(1, 40), min_size=1, max_size=6), seed=st.integers(0, 2**32 - 1))
def test_a_stream_taken_in_pieces_is_the_same_stream(pieces: list[int], seed: int) -> None:
    whole = Streams(3, seed).take(sum(pieces))
    streams = Streams(3, seed)
    parts = []
    for piece in pieces:
        parts.append(streams.take(piece))
        other = Streams(3, 0)
        other.restore(streams.state())
        streams = other
    for came, expected in zip(zip(*parts, strict=True), whole, strict=True):
        np.testing.assert_array_equal(np.concatenate(came, axis=1), expected)


def test_symbol_by_symbol_is_the_same_stream() -> None:
    symbols, _, legal = Streams(1, 5).take(2500)
    came = list(itertools.islice(stream(5), 2500))
    assert [token for token, _ in came] == symbols[0].tolist()
    np.testing.assert_array_equal([mask for _, mask in came], legal[0])


def test_restarted_streams_begin_a_string_and_the_others_go_on() -> None:
    streams, undisturbed = Streams(2, 6), Streams(2, 6)
    streams.take(7)
    undisturbed.take(7)
    streams.restart(np.array([False, True]))
    symbols = streams.take(500)[0]
    np.testing.assert_array_equal(symbols[0], undisturbed.take(500)[0][0])
    assert all(STRING.fullmatch(string) for string in strings(letters(symbols[1])))


@given(
    scores=hnp.arrays(np.float32, (4, 7), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0, np.nan])),
    legal=hnp.arrays(np.bool_, (4, 7)),
)
def test_illegal_is_some_illegal_symbol_as_high_as_some_legal_one(
    scores: NDArray[np.float32], legal: NDArray[np.bool_]
) -> None:
    legal[:, 0], legal[:, 1] = True, False
    expected = sum(
        any(
            not row[one] > row[other]
            for one in np.flatnonzero(mask)
            for other in np.flatnonzero(~mask)
        )
        or np.isnan(row).any()
        for row, mask in zip(scores, legal, strict=True)
    )  # fmt: skip
    assert illegal(scores, legal) == expected


def test_margin() -> None:
    scores = np.array([3.0, 1.0, 0.5, 0, 0, 0, -1])
    legal = np.array([True, True, False, False, False, False, False])
    assert margin(scores, legal) == pytest.approx(0.5)
    assert margin(-scores, legal) == pytest.approx(-4.0)


def all_knowing(batch: int, branch_matters: bool = True) -> Session:
    """Predicts from the string so far, by the regular expression's own rules for a short look-back."""
    texts = ["" for _ in range(batch)]

    def session(inputs: NDArray[Any]) -> NDArray[np.float32]:
        scores = np.zeros((*inputs.shape, 7), dtype=np.float32)
        for row, tokens in enumerate(inputs):
            for time, token in enumerate(tokens):
                text = texts[row] + SYMBOLS[token]
                texts[row] = "B" if text.endswith("EB") else text
                for index, symbol in enumerate(SYMBOLS):
                    scores[row, time, index] = 5.0 if _may_follow(texts[row], symbol, branch_matters) else 0.0
        return scores

    return session


def _may_follow(text: str, symbol: str, branch_matters: bool) -> bool:
    if len(text) == 1:
        return symbol in "TP"
    inner = text[2:]
    if inner and re.fullmatch(_INNER, inner):
        return symbol == text[1] if branch_matters else symbol in "TP"
    if re.fullmatch(f"{_INNER}[TP]", inner):
        return symbol == "E"
    if inner and re.fullmatch(f"{_INNER}[TP]E", inner):
        return symbol == "B"
    completions = ("", "E", "SE", "XSE", "XVVE", "VE", "VVE", "TXSE", "PVVE", "BTXSE")
    return any(re.fullmatch(_INNER, inner + symbol + completion) for completion in completions)


def test_who_knows_the_grammar_is_judged_to_have_solved_it() -> None:
    evaluation = Reber(2, 10, seed=0, judged=(2, 1000)).evaluate(all_knowing)
    assert evaluation.solved
    assert evaluation.score == -5.0
    assert evaluation.summary == "0 illegal in 2,000 fresh symbols, least margin 5.00 nats"


def test_who_forgets_the_branch_is_not() -> None:
    evaluation = Reber(2, 10, seed=0, judged=(2, 1000)).evaluate(lambda batch: all_knowing(batch, False))
    assert evaluation.solved is False
    assert evaluation.score == 0.0
    mistakes = int(evaluation.summary.split()[0])
    assert mistakes == sum(
        text[k - 1] == "E" and symbol in "TP"
        for text in map(letters, Streams(2, (0, 3)).take(1001)[0])
        for k, symbol in enumerate(text[1:], start=1)
    )


def test_windows_follow_one_another_where_no_session_begins() -> None:
    task = Reber(8, 10, seed=0)
    before = task.window()
    for _ in range(20):
        window = task.window()
        assert window.inputs.shape == window.targets.shape == (8, 10)
        assert not window.fresh[:4].any()
        np.testing.assert_array_equal(
            window.inputs[:, 0], np.where(window.fresh, SYMBOLS.index("B"), before.targets[:, -1])
        )
        before = window


def test_the_task_goes_on_from_where_it_stood() -> None:
    task, other = Reber(8, 10, seed=0), Reber(8, 10, seed=1)
    task.window()
    other.restore(task.state())
    for _ in range(5):
        expected, came = task.window(), other.window()
        np.testing.assert_array_equal(came.inputs, expected.inputs)
        np.testing.assert_array_equal(came.fresh, expected.fresh)


def test_it_needs_no_torch() -> None:
    check = "import sys, gatestream.model.tasks.reber; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)

"""The flags of `gatestream adopt` in a config.pbtxt, against the command's own."""

import re
import shlex

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatestream.cli.adopt import command
from gatestream.server.repository.adopt_flags import WITH_VALUE, adopt_flags

VALUES = st.text("ab=:.,16 '\\\"-", min_size=1, max_size=8).filter(lambda text: not text.endswith(".npy"))
GIVEN = st.lists(st.one_of(st.tuples(st.sampled_from(WITH_VALUE), VALUES), st.just(("stateless", ""))), max_size=5)


@given(GIVEN, st.booleans())
def test_they_are_read_as_a_shell_reads_them(given: list[tuple[str, str]], apart: bool) -> None:
    words = [
        word
        for name, value in given
        for word in ([f"--{name}"] if not value else [f"--{name}", value] if apart else [f"--{name}={value}"])
    ]
    assert adopt_flags(shlex.join(words)) == [f"--{name}={value}" if value else f"--{name}" for name, value in given]


def test_the_command_has_all_of_them() -> None:
    """And what it has besides says where things go, or what the model is called: that is the folder's."""
    options = {name for each in command.params if isinstance(each, click.Option) for name in each.opts}
    here = {f"--{name}" for name in (*WITH_VALUE, "stateless")}
    assert options - here == {"-o", "--output", "--name", "--model-version", "--report", "--force"}
    assert here < options


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("-o /etc/passwd", "'-o' is none of the flags that can stand there: --state, "),
        ("--force", "'--force' is none of"),
        ("--name=other", "'--name=other' is none of"),
        ("here.onnx", "'here.onnx' is none of"),
        ("--window", "--window has no value"),
        ("--window=", "--window has no value"),
        ("--stateless=yes", "--stateless takes no value"),
        ("--constant sr=/etc/rates.npy", "--constant names a file, 'sr=/etc/rates.npy'"),
        ("--constant 'sr=16000", "No closing quotation"),
    ],
)
def test_others_are_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        adopt_flags(text)

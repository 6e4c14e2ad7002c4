"""Blocks that are read at once, against Python's csv."""

import csv

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gatestream.cli.rows.dialect import Dialect
from gatestream.cli.rows.records import Records

BLOCKS = st.text('",\n 1é', max_size=24).map(lambda text: text + "\n")


@settings(max_examples=1_000)
@given(BLOCKS)
@example('"1,1",1\n')
@example('"1\n",1\n')
@example('1",1\n"1",1\n')
def test_a_plain_block_is_one_row_a_line(block: str) -> None:
    records = Records(Dialect(","))
    assert list(records.feed("a,b\n"))
    if records.plain(block):
        lines = block.split("\n")[:-1]
        rows = list(csv.reader(lines, strict=True))
        assert len(rows) == len(lines)
        assert {len(row) for row in rows} == {2}


def test_quotes_do_not_make_a_block_slow() -> None:
    records = Records(Dialect(","))
    assert list(records.feed("a,b\n"))
    assert records.plain('"1,1",1\n1,""\n"é","1"\n')
    assert not records.plain('"1""1",1\n')
    assert not records.plain('"1,\n1",1\n')

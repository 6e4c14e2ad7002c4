from gatestream.server.transport.messages import Chunk


def test_a_chunk_is_steps_of_one_entry() -> None:
    sent = Chunk(3, 2, 2**62, (b"ab", b"cd")).steps()
    assert [column.tolist() for column in (sent.handles, sent.lengths, sent.first) if column is not None] == [
        *([3], [2], [2**62]),
    ]
    assert sent.columns == (b"ab", b"cd")
    bare = Chunk(3, None, -1, ()).steps()
    assert (bare.handles.tolist(), bare.lengths, bare.first) == ([3], None, None)

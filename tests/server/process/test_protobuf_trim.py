"""What protobuf does with freed memory, by how much of it is resident. Processes of their own."""

import subprocess
import sys

import pytest

from gatestream.server.process import protobuf_trim

FREED = """
import ctypes, sys
from gatestream.protos.gatestream.v1 import gatestream_pb2 as pb
from gatestream.server.process import allocator, protobuf_trim

allocator.keep_freed()
if sys.argv[1] == "keep":
    assert protobuf_trim.why_not() is None
    protobuf_trim.keep_from_trimming()
    assert protobuf_trim.why_not() == "this protobuf does not call malloc_trim"
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
# Free memory between what is in use, where only malloc_trim returns it.
blocks = [bytearray(20_000) for _ in range(8_000)]
kept = blocks[::4]
blocks.clear()
before = resident()
for _ in range(30_000):
    assert pb.Reset.FromString(pb.Reset(handle=[1, 2, 3]).SerializeToString()).handle == [1, 2, 3]
print(before - resident())
"""


@pytest.mark.skipif(protobuf_trim.why_not() is not None, reason=str(protobuf_trim.why_not()))
def test_messages_do_not_give_memory_back() -> None:
    def returned(how: str) -> int:
        ended = subprocess.run([sys.executable, "-c", FREED, how], check=True, capture_output=True, text=True)
        return int(ended.stdout)

    # MiB, of 110. That the first is so much is why there is a second.
    assert returned("leave") > 80
    assert returned("keep") < 10


def test_a_machine_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert protobuf_trim.why_not() == f"this is {sys.platform} on riscv64, expected linux on x86_64 or aarch64"


@pytest.mark.parametrize("elf", [b"", b"\x7fELF\x01\x01", b"no library at all"])
def test_what_is_no_library_has_no_references(elf: bytes) -> None:
    assert list(protobuf_trim._offsets(elf)) == []


def test_another_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf_trim, "_library", lambda: None)
    if sys.platform == "linux":
        assert protobuf_trim.why_not() == "protobuf is not the one with a library of its own (upb)"

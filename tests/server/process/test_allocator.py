import subprocess
import sys

import pytest

CODE = """
import resource, sys
from gatestream.server.process.allocator import keep_freed

if sys.argv[1] == "keep":
    keep_freed()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    parts = [b"x" * 2**18 for _ in range(10)]
    return b"".join(parts)
for _ in range(5):
    work()
before = faults()
for _ in range(20):
    work()
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told")
def test_freed_memory_is_not_faulted_in_anew() -> None:
    def faults(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", CODE, how], check=True, capture_output=True).stdout)

    assert faults("keep") < 100 < faults("leave")


BURST = """
import asyncio
from gatestream.server.process import allocator

allocator.keep_freed()
allocator._LOOK_SECONDS = 0.05
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
async def main():
    task = asyncio.create_task(allocator.give_back())
    await asyncio.sleep(0.1)
    before = resident()
    # Some of it is free, and given back, while most is in use.
    blocks = [bytearray(20_000) for _ in range(20_000)]
    kept = blocks[::4]
    blocks[::4] = [None] * len(kept)
    del blocks[:10_000]
    await asyncio.sleep(0.5)
    blocks.clear()
    kept = kept[::1000]
    await asyncio.sleep(0.5)
    print(resident() - before)
    assert not task.done()
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told")
def test_what_a_burst_took_is_given_back() -> None:
    ended = subprocess.run([sys.executable, "-c", BURST], check=True, capture_output=True, text=True)
    assert int(ended.stdout) < 64  # MiB, of 400

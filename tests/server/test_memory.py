import subprocess
import sys

import pytest

CODE = """
import resource, sys
from gatestream.server.memory import keep_freed

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

"""`gatestream`, counting every call of a Python function and every call from Python into C.

At SIGUSR1 it writes the counts so far, as JSON, to the file that GATESTREAM_CALLS names.
"""

import json
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

calls: Counter[CodeType] = Counter()
c_calls: Counter[CodeType] = Counter()


def count(frame: FrameType, event: str, _argument: Any) -> None:
    if event == "call":
        calls[frame.f_code] += 1
    elif event == "c_call":
        # Booked to the Python function that called.
        c_calls[frame.f_code] += 1


def write(_number: int, _frame: FrameType | None) -> None:
    def named(counter: Counter[CodeType]) -> dict[str, int]:
        names: Counter[str] = Counter()
        # A copy: other threads go on counting.
        for code, times in list(counter.items()):
            names[f"{code.co_qualname} ({Path(code.co_filename).name}:{code.co_firstlineno})"] += times
        return names

    sys.setprofile(None)
    path = Path(os.environ["GATESTREAM_CALLS"])
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"calls": named(calls), "c_calls": named(c_calls)}))
    draft.replace(path)
    sys.setprofile(count)


if __name__ == "__main__":
    from gatestream.cli.main import main

    signal.signal(signal.SIGUSR1, write)
    threading.setprofile(count)
    sys.setprofile(count)
    main()

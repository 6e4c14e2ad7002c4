"""Nothing, for comparison: what a machine does to the times of a server that only its neighbour steps."""

import math
import time

from tests.hostile.target import Target, pattern

_SECONDS = 30.0


@pattern("nothing, for half a minute", hold_ms=math.inf, p99_ms=math.inf)
def nothing(target: Target) -> None:
    time.sleep(_SECONDS * target.scale)

"""What crosses the bus in a step: by onnxruntime's placement, by its profile, and by the driver's own records.

Copies of graph inputs and outputs are no nodes, so onnxruntime's profile does not show them; CUPTI, through torch's
profiler, records every copy of the process, whoever asks for it.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from benchmarks.cuda.contenders import Step
from gatestream.server.backend.artifact import Artifact, arena_graph
from gatestream.server.backend.runner import Placement

_DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
_ARENA_ROWS = 8192


class CrossedError(Exception):
    """Something that belongs on the device left it."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One run, from onnxruntime's profile file.

    Attributes:
        nodes: how many nodes ran on each execution provider, those in a Scan's body once for each step.
        copies: bytes of each MemcpyFromHost and MemcpyToHost.
    """

    nodes: Mapping[str, int]
    copies: Sequence[int]

    @classmethod
    def read(cls, events: Sequence[Mapping[str, Any]]) -> "Profile":
        """From the file's events."""
        ran = [event["args"] for event in events if event.get("cat") == "Node" and "provider" in event["args"]]
        copies = [int(node["output_size"]) for node in ran if node["op_name"].startswith("Memcpy")]
        return cls(Counter(node["provider"] for node in ran), copies)


def profile(artifact: Artifact, provider: str, batch: int, folder: Path) -> Profile:
    """Run the arena's graph once with onnxruntime's profiler."""
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "onnxruntime")
    options.log_severity_level = 3
    session = ort.InferenceSession(arena_graph(artifact).SerializeToString(), options, providers=[provider])
    sizes = {"time": 1, "capacity": _ARENA_ROWS}
    feed = {}
    for item in session.get_inputs():
        shape = [axis if isinstance(axis, int) else sizes.get(axis, batch) for axis in item.shape]
        feed[item.name] = np.ones(shape, _DTYPES[item.type])
        if item.type == "tensor(int64)" and len(shape) == 1:
            feed[item.name] = np.arange(batch)  # slots, each once
    session.run(None, feed)
    return Profile.read(json.loads(Path(session.end_profiling()).read_text()))


def check(placements: Sequence[Placement], found: Profile, provider: str, state_bytes: int) -> str:
    """That all nodes are on the provider and no state is copied between them.

    Args:
        state_bytes: of one state of the whole batch: the smaller of h and c.

    Raises:
        CrossedError: a node is, or ran, elsewhere, or a state was copied.
    """
    if elsewhere := [
        f"{p.nodes} nodes on {p.execution_provider}" for p in placements if p.execution_provider != provider
    ]:
        raise CrossedError(f"not all nodes are placed on {provider}: {', '.join(elsewhere)}")
    if elsewhere := [f"{count} on {name}" for name, count in found.nodes.items() if name != provider]:
        raise CrossedError(f"not all nodes ran on {provider}: {', '.join(elsewhere)}")
    if found.copies and max(found.copies) >= state_bytes:
        raise CrossedError(
            f"a copy between host and device moved {max(found.copies)} bytes in one step; a state has {state_bytes}"
        )
    return (
        f"{sum(p.nodes for p in placements)} nodes, all placed on {provider}; "
        f"{sum(found.nodes.values())} ran, all there; {len(found.copies)} Memcpy nodes, {sum(found.copies)} bytes"
    )


def bus_bytes(events: Sequence[Mapping[str, Any]]) -> int:
    """Bytes between host and device, in a trace of torch's profiler."""
    copies = [event for event in events if event.get("cat") == "gpu_memcpy"]
    return sum(int(copy["args"]["bytes"]) for copy in copies if "HtoD" in copy["name"] or "DtoH" in copy["name"])


def trace(step: Step, steps: int, folder: Path) -> int:
    """Bytes between host and device in one step, by CUPTI; 0 where it recorded none."""
    activity = torch.profiler.ProfilerActivity
    chosen = activity.CUDA if torch.cuda.is_available() else activity.CPU
    with torch.profiler.profile(activities=[chosen]) as profiler:
        for _ in range(steps):
            step()
    path = folder / "torch.json"
    profiler.export_chrome_trace(str(path))
    return bus_bytes(json.loads(path.read_text())["traceEvents"]) // steps


def check_bus(moved: int, needed: int, state_bytes: int) -> str:
    """That no state is among what crossed.

    Args:
        moved: bytes in a step, as `trace` counts them.
        needed: of the inputs and outputs of a step.
        state_bytes: as for `check`.

    Raises:
        CrossedError: there is room for a state in what crossed beyond the inputs and outputs.
    """
    if moved - needed >= state_bytes:
        raise CrossedError(
            f"{moved} bytes cross the bus in a step; inputs and outputs are {needed} and a state is {state_bytes}"
        )
    if not moved:
        return f"copies between host and device: not counted, the profiler recorded none (inputs and outputs: {needed})"
    return f"{moved} bytes a step between host and device; inputs and outputs are {needed}, one state {state_bytes}"

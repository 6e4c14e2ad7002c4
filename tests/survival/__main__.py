"""Everything that may die does, and no session notices: `python -m tests.survival`. Counts are printed."""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tests.support.process import serving
from tests.survival.crowd import Crowd, outcome, plans
from tests.survival.cuts import cut_connections
from tests.survival.kills import kill_server
from tests.survival.models import MODELS, artifacts
from tests.survival.owners import stop_owners
from tests.survival.replicas import lose_replicas
from tests.survival.soak import soak
from tests.survival.takeovers import kill_clients


class Proof(Protocol):
    """What came of one; as text, its counts."""

    @property
    def whole(self) -> bool:
        """Whether what is promised held."""


_Proofs = dict[str, Callable[[], Proof]]
# Of each model: some two thirds of its sessions have none.
_SLOTS = 12


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.survival", description=__doc__)
    parser.add_argument("reber", type=Path, help="the reference model's artifact")
    parser.add_argument("names", nargs="*", metavar="NAME", help="proofs whose names hold one of these; default: all")
    parser.add_argument("--sessions", type=int, default=64, help="that stream meanwhile; default: 64")
    parser.add_argument("--kills", type=int, default=200, help="of the server, for each durability; default: 200")
    parser.add_argument("--cuts", type=int, default=500, help="and other faults of connections; default: 500")
    parser.add_argument("--replicas", type=int, default=50, help="that are killed; default: 50")
    parser.add_argument("--owners", type=int, default=20, help="that stop, and go on; default: 20")
    parser.add_argument("--clients", type=int, default=50, help="that are killed, for each durability; default: 50")
    parser.add_argument("--minutes", type=float, default=20, help="of all at random; default: 20")
    parser.add_argument("--seed", type=int, default=0, help="of what happens when; default: 0")
    given = parser.parse_args()
    broken = 0
    with tempfile.TemporaryDirectory(prefix="gatestream-survival-") as name:
        models = artifacts(given.reber, Path(name))
        with serving(*models, deterministic=True) as undisturbed:
            for proof, prove in _proofs(given, Path(name), models, undisturbed.address).items():
                if not given.names or any(each in proof for each in given.names):
                    began = time.monotonic()
                    found = prove()
                    broken += not found.whole
                    print(f"{proof}: {found}; {time.monotonic() - began:.0f} s", flush=True)
    print(f"{broken} broken")
    return int(bool(broken))


def _proofs(given: argparse.Namespace, folder: Path, models: Sequence[Path], undisturbed: str) -> _Proofs:
    """All, by their names."""
    walks, many, seed = plans(MODELS, given.sessions), plans(MODELS, 100), given.seed

    def compared(faults: Callable[..., Crowd], *arguments: Any, **settings: Any) -> Callable[[], Proof]:
        return lambda: outcome(faults(*arguments, seed=seed, **settings), undisturbed)

    proofs: _Proofs = {}
    for durability in ("behind", "before-answer"):
        store = folder / durability
        store.mkdir()
        proofs[f"killed servers, sqlite, {durability}"] = compared(
            kill_server, models, walks, store, given.kills, durability
        )
        few = folder / f"few-{durability}"
        few.mkdir()
        proofs[f"killed servers with few slots, sqlite, {durability}"] = compared(
            kill_server, models, walks, few, given.kills // 4, durability, sessions=_SLOTS, held_sessions=1000
        )
        proofs[f"killed clients, sqlite, {durability}"] = partial(
            kill_clients, models, undisturbed, folder, given.clients, durability, seed
        )
    proofs["connections"] = compared(cut_connections, models, walks, folder, given.cuts)
    away = [10.0] * (1 + given.replicas // 25)
    proofs["replicas, valkey"] = compared(
        lose_replicas, models, walks, given.replicas, max(given.replicas // 5, 1), away
    )
    proofs["two owners of 100 sessions, sqlite"] = compared(stop_owners, models, many, folder, given.owners)
    proofs["soak, valkey"] = partial(soak, models, walks, undisturbed, given.minutes, seed)
    return proofs


if __name__ == "__main__":
    raise SystemExit(main())

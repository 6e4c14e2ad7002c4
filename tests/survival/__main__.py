"""Everything that may die does, and no session notices: `python -m tests.survival`. Counts are printed."""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.survival.crowd import Outcome, plans
from tests.survival.kills import kill_server
from tests.survival.models import MODELS, artifacts


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.survival", description=__doc__)
    parser.add_argument("reber", type=Path, help="the reference model's artifact")
    parser.add_argument("names", nargs="*", metavar="NAME", help="proofs whose names hold this; default: all")
    parser.add_argument("--kills", type=int, default=200, help="of the server, for each durability")
    parser.add_argument("--sessions", type=int, default=64, help="that stream meanwhile")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gatestream-survival-") as name:
        folder = Path(name)
        models, walks = artifacts(given.reber, folder), plans(MODELS, given.sessions)
        proofs: dict[str, Callable[[], Outcome]] = {
            f"kill -9, sqlite, {durability}": lambda durability=durability: kill_server(  # type: ignore[misc]
                models, walks, folder, given.kills, durability, given.seed
            )
            for durability in ("behind", "before-answer")
        }
        broken = 0
        for proof, prove in proofs.items():
            if all(each not in proof for each in given.names) and given.names:
                continue
            began = time.monotonic()
            found = prove()
            broken += not found.whole
            print(f"{proof}: {found}; {time.monotonic() - began:.0f} s", flush=True)
        print(f"{broken} broken")
    return int(bool(broken))


if __name__ == "__main__":
    raise SystemExit(main())

"""Ctrl-C, at any moment of a program that steps."""

import os
import signal
import subprocess
import sys
import time

from tests.support.process import ServerProcess
from tests.support.wire import PATIENCE

PROGRAM = """
import sys
from gatestream.client import connect

with connect(sys.argv[1]) as gs, gs.session("accumulator") as session:
    print("begun", flush=True)
    while True:
        session.step([1, 1])
"""


def test_a_program_that_is_interrupted_ends(server: ServerProcess) -> None:
    for k in range(12):
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, server.address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        with program:
            assert program.stdout is not None
            assert program.stdout.readline() == "begun\n"
            time.sleep(0.02 + 0.003 * k)
            os.kill(program.pid, signal.SIGINT)
            try:
                _, said = program.communicate(timeout=PATIENCE)
            finally:
                program.kill()
        assert program.returncode == -signal.SIGINT, said
        assert said.splitlines()[-1] == "KeyboardInterrupt"

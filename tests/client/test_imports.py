import subprocess
import sys

HEAVY = {"torch", "onnx", "onnxruntime", "matplotlib", "structlog", "gatestream.server", "gatestream.export"}


def test_the_client_imports_little() -> None:
    code = "import sys, gatestream.client; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())

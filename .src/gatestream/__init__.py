"""gatestream: export recurrent models to ONNX with their gates preserved, and serve them with per-session state."""

import os

__version__ = "0.1.0"

# onnxruntime reports to its makers, and keeps a device id for it, unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

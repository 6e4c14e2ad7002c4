"""gatestream: export recurrent models to ONNX with their gates preserved, and serve them with per-session state."""

__version__ = "0.1.0"

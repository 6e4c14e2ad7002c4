"""From anybody's ONNX file to an artifact: what it is found to be, what is rewritten for it, and what is refused."""

"""Small ONNX files in the styles of every exporter, each with what is to be found in it and how it is run.

`stranger` says what a file is; `oracle` runs it by its own convention; the rest are generators.
"""

"""A model becomes one checked ONNX file."""

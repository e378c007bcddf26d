"""ONNX graphs as data, with the package onnx: read, cut, a new head, what they cost. Nothing is run."""

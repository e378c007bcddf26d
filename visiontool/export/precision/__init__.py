"""A graph in reduced precision: half floats, or 8-bit integers. Nothing here needs torch."""

from visiontool.export.precision.fp16 import to_fp16
from visiontool.export.precision.int8 import TOLERANCE, Quantized, to_int8

__all__ = ["TOLERANCE", "Quantized", "to_fp16", "to_int8"]

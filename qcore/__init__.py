"""Quantized SAM 2 for video: models, tracking, quantization, runtime and evaluation, without any GUI."""

__version__ = "0.1.0"

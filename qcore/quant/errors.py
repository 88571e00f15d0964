"""The error of `qcore.quant`; free of torch, so that choosing clips needs none."""

from __future__ import annotations


class QuantizationError(ValueError):
    """Quantization cannot go on; the message is one sentence for the user."""

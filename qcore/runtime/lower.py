"""From a model as it was loaded to the same model on this device's fastest kernels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.memory_attention import MemoryAttention
from sam2.modeling.sam2_base import SAM2Base
from torch import nn

from qcore.models.embedded import EfficientNetLiteTrunk
from qcore.runtime.efficientnet import FastEfficientNetTrunk
from qcore.runtime.hiera import FastHiera
from qcore.runtime.memory_attention import FastMemoryAttention, UnsupportedModuleError
from qcore.runtime.probe import cpu_kernels

log = logging.getLogger(__name__)


class Precision(StrEnum):
    """Arithmetic of the large products; sums, norms and masks stay in float32."""

    AUTO = "auto"
    """bfloat16 where this machine is clearly faster with it, else float32."""
    FP32 = "fp32"
    BF16 = "bf16"


@dataclass(frozen=True, slots=True)
class KernelReport:
    """What `lower` chose, for the status bar and `doctor`."""

    device: str
    precision: Precision
    replaced: tuple[str, ...]
    """Parts that run on our kernels."""
    kept: tuple[str, ...]
    """Parts left as they were, each with the reason."""

    @property
    def summary(self) -> str:
        """A few words, e.g. ``CPU bf16``."""
        return f"{self.device.upper()} {self.precision}"


def resolve_precision(device: torch.device, precision: Precision = Precision.AUTO) -> Precision:
    """AUTO made concrete for a device; only the CPU is measured, elsewhere the model stays as loaded."""
    if precision is not Precision.AUTO:
        return precision
    if device.type != "cpu":
        return Precision.FP32
    return Precision.BF16 if cpu_kernels().dtype is torch.bfloat16 else Precision.FP32


def lower(model: SAM2Base, precision: Precision = Precision.AUTO) -> KernelReport:
    """Swap the trunk and the memory attention for fast kernels, in place; call it after moving the model.

    FP32 computes the same function to rounding. BF16 changes masks slightly (mean IoU with float32 above
    0.99 on real clips). Parts built otherwise, quantized ones for instance, stay as they are. Lowering twice
    changes nothing.
    """
    device = next(model.parameters()).device
    chosen = resolve_precision(device, precision)
    dtype = torch.bfloat16 if chosen is Precision.BF16 else torch.float32
    replaced: list[str] = []
    kept: list[str] = []

    def swap(owner: nn.Module, name: str, build: dict[type, Callable[..., nn.Module]]) -> None:
        module = getattr(owner, name)
        if isinstance(module, tuple(build.values())):  # type: ignore[arg-type]
            replaced.append(name)
            return
        make = build.get(type(module))
        if make is None:
            kept.append(f"{name}: no kernels for {type(module).__name__}")
            return
        try:
            setattr(owner, name, make(module, dtype).eval())
            replaced.append(name)
        except UnsupportedModuleError as error:
            kept.append(f"{name}: {error}")

    with torch.no_grad():
        swap(model, "memory_attention", {MemoryAttention: FastMemoryAttention})
        trunks = {Hiera: FastHiera, EfficientNetLiteTrunk: FastEfficientNetTrunk}
        swap(model.image_encoder, "trunk", trunks)  # type: ignore[arg-type]
    report = KernelReport(device.type, chosen, tuple(replaced), tuple(kept))
    log.info("kernels: %s", report)
    return report

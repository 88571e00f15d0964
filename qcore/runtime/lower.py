"""From a model as it was loaded to the same model on this device's fastest kernels."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from enum import StrEnum

import torch
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.memory_attention import MemoryAttention
from sam2.modeling.memory_encoder import MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingRandom, PositionEmbeddingSine
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam2_base import SAM2Base
from torch import nn

from qcore.allocator import keep_freed_memory
from qcore.models.embedded import EfficientNetLiteTrunk
from qcore.quant.attention import QuantizedAttention, QuantizedProducts
from qcore.quant.layers import QuantizedLayer
from qcore.runtime.attention import AttentionWay
from qcore.runtime.channels_last import lower_neck
from qcore.runtime.choice import Choice, Chooser
from qcore.runtime.efficientnet import FastEfficientNetTrunk
from qcore.runtime.errors import UnsupportedModuleError
from qcore.runtime.hiera import FastHiera
from qcore.runtime.mask_decoder import FastMaskDecoder, KeptGridPositions
from qcore.runtime.memory_attention import FastMemoryAttention
from qcore.runtime.memory_encoder import FastMemoryEncoder
from qcore.runtime.positions import KeptPositions
from qcore.runtime.probe import chooser_of_this_machine, cpu_kernels, remember
from qcore.runtime.quantized_attention import FastQuantizedAttention
from qcore.runtime.quantized_efficientnet import FastQuantizedEfficientNetTrunk
from qcore.runtime.quantized_layers import kernel_layer
from qcore.runtime.recorded_calls import MOST_POSITIONS, record_calls

log = logging.getLogger(__name__)

_FAST = (FastMemoryAttention, FastHiera, FastEfficientNetTrunk, FastQuantizedEfficientNetTrunk)
_PROMPT_ROWS = 8
"""Tokens of a prompt with the mask decoder's own: rows of its small linear layers."""


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
    is_quantized: bool = False
    """Whether the model has quantized parts."""
    integers: bool = False
    """Whether some of them run in 8-bit integers."""

    @property
    def arithmetic(self) -> str:
        """Of the large products, e.g. ``bf16`` or ``int8 + fp32``."""
        return f"int8 + {self.precision}" if self.integers else str(self.precision)

    @property
    def summary(self) -> str:
        """A few words, e.g. ``CPU bf16`` or ``CPU int8 + fp32``."""
        return f"{self.device.upper()} {self.arithmetic}"


def resolve_precision(device: torch.device, precision: Precision = Precision.AUTO) -> Precision:
    """AUTO made concrete for a device; only the CPU is measured, elsewhere the model stays as loaded."""
    if precision is not Precision.AUTO:
        return precision
    if device.type != "cpu":
        return Precision.FP32
    return Precision.BF16 if cpu_kernels().dtype is torch.bfloat16 else Precision.FP32


def lower(
    model: SAM2Base, precision: Precision = Precision.AUTO, choice: Choice | None = None
) -> KernelReport:
    """Swap a model's parts for fast kernels, in place; call it after moving the model.

    FP32 computes the same function to rounding. BF16 changes masks slightly (mean IoU with float32 above
    0.99 on real clips). Quantized layers and attentions become kernels that compute what their fake
    quantizers compute: in 8-bit integers where these are exact and faster on this CPU, else in floats. Parts
    built otherwise, and quantized parts on other devices, stay as they are. A small model's steps are
    recorded on the CPU (`recorded_calls.py`). Lowering twice changes nothing.

    Args:
        model: on its device.
        precision: of products that are not of integers.
        choice: decides between kernels that compute the same; None for measurements of this machine, made
            when a model first needs them and remembered.
    """
    device = next(model.parameters()).device
    if device.type == "cpu":
        keep_freed_memory()
    chosen = resolve_precision(device, precision)
    dtype = torch.bfloat16 if chosen is Precision.BF16 else torch.float32
    chooser = None
    if choice is None:
        choice = chooser = chooser_of_this_machine() if device.type == "cpu" else None
    choice = False if choice is None else choice
    way = (
        cpu_kernels().attention_way(str(dtype).removeprefix("torch."))
        if device.type == "cpu"
        else AttentionWay.FUSED
    )
    quantized = {name for name, module in model.named_modules() if _is_quantized(module)}
    replaced: list[str] = []
    kept: list[str] = []
    with torch.no_grad():
        for owner, name in ((model, "memory_attention"), (model.image_encoder, "trunk")):
            try:
                replaced += [name] if _swap(owner, name, model, dtype, choice, way) else []
            except UnsupportedModuleError as error:
                kept.append(f"{name}: {error}")
        # a model that is still being calibrated keeps all its parts
        owners = (model.image_encoder.neck, model.memory_encoder) if replaced or not quantized else ()
        for part in owners:
            if type(part.position_encoding) is PositionEmbeddingSine:
                part.position_encoding = KeptPositions(part.position_encoding)
        if owners and device.type == "cpu":
            replaced += _swap_heads(model, dtype, choice)
        if quantized and device.type == "cpu":
            kept += _lower_layers(model, dtype, choice)
        if owners and device.type == "cpu" and _tokens(model) <= MOST_POSITIONS:
            record_calls(model)
        if chooser is not None:
            remember(chooser)
    integers = choice is True
    if isinstance(choice, Chooser):
        integers = any(chosen_way.is_integer for chosen_way in choice.chosen.values())
    report = KernelReport(
        device.type, chosen, tuple(replaced), tuple(kept), bool(quantized), bool(quantized) and integers
    )
    if report.precision is not Precision.FP32 or report.is_quantized:
        model.computes_exactly = False
    log.info("kernels: %s", report)
    return report


def _is_quantized(module: nn.Module) -> bool:
    return isinstance(module, (QuantizedLayer, QuantizedProducts))


def _swap(
    owner: nn.Module, name: str, model: SAM2Base, dtype: torch.dtype, choice: Choice, way: AttentionWay
) -> bool:
    """Replace a trunk or memory attention; True where it runs on our kernels afterwards."""
    module = getattr(owner, name)
    if isinstance(module, _FAST):
        return True
    is_quantized = any(_is_quantized(part) for part in module.modules())
    if is_quantized and next(module.parameters()).device.type != "cpu":
        raise UnsupportedModuleError("quantized parts have kernels on the CPU only.")
    side = model.image_size
    if type(module) is MemoryAttention:
        frames = max(1, (model.num_maskmem + 1) // 2)
        fast: nn.Module = FastMemoryAttention(module, dtype, _tokens(model), choice, way, frames)
    elif type(module) is Hiera:
        fast = FastHiera(module, dtype, (side // 4) ** 2, choice, way)
    elif type(module) is EfficientNetLiteTrunk and is_quantized:
        fast = FastQuantizedEfficientNetTrunk(module, dtype, choice, side)
    elif type(module) is EfficientNetLiteTrunk:
        fast = FastEfficientNetTrunk(module, dtype)
    else:
        raise UnsupportedModuleError(f"no kernels for {type(module).__name__}")
    setattr(owner, name, fast.eval())
    return True


def _swap_heads(model: SAM2Base, dtype: torch.dtype, choice: Choice) -> list[str]:
    """Replace neck, memory encoder and mask decoder where they are SAM 2's; the names of those that were.

    Built otherwise they stay, at the cost of a few milliseconds. Small quantized layers in them are left to
    `_lower_layers`.
    """
    swapped = []
    with contextlib.suppress(UnsupportedModuleError):
        swapped += ["neck"] if lower_neck(model, dtype, choice) else []
    positions = model.sam_prompt_encoder.pe_layer
    if type(positions) is PositionEmbeddingRandom:
        model.sam_prompt_encoder.pe_layer = KeptGridPositions(positions)
    heads: tuple[tuple[str, type, type], ...] = (
        ("memory_encoder", MemoryEncoder, FastMemoryEncoder),
        ("sam_mask_decoder", MaskDecoder, FastMaskDecoder),
    )
    for name, source, fast in heads:
        head = getattr(model, name)
        if type(head) is source:
            with contextlib.suppress(UnsupportedModuleError):
                head = fast(head, dtype, _tokens(model), choice).eval()
                setattr(model, name, head)
        if isinstance(head, fast):
            swapped.append(name)
    return swapped


def _tokens(model: SAM2Base) -> int:
    """Positions of the top feature map."""
    return max(1, model.image_size // 16) ** 2


def _side(name: str, image_size: int) -> int:
    """Of the maps that enter a convolution outside the trunk's blocks."""
    last = int(next((word for word in reversed(name.split(".")) if word.isdigit()), "0"))
    if "patch_embed" in name:
        return image_size
    if "neck.convs." in name:
        # from coarse to fine
        return max(1, image_size * 2 ** int(name.partition("neck.convs.")[2].split(".")[0]) // 32)
    if "mask_downsampler" in name:
        # convolution, norm and activation a step
        return max(1, image_size >> min(4, last // 3))
    if "mask_downscaling" in name:
        return max(1, image_size // 4 >> min(2, last // 3))
    if "conv_s0" in name or "conv_s1" in name:
        return max(1, image_size // (4 if "conv_s0" in name else 8))
    return max(1, image_size // 16)


def _attention_rows(name: str, tokens: int) -> tuple[int, int]:
    """Queries and keys of one of the mask decoder's attentions."""
    asks_from_image = "image_to_token" in name
    asks_image = "token_to_image" in name
    return tokens if asks_from_image else _PROMPT_ROWS, tokens if asks_image else _PROMPT_ROWS


def _lower_layers(model: SAM2Base, dtype: torch.dtype, choice: Choice) -> list[str]:
    """Replace the quantized layers and attentions that no larger kernel has taken; why some stay."""
    kept: list[str] = []
    tokens = _tokens(model)
    taken = [name for name, module in model.named_modules() if isinstance(module, _FAST)]
    for name, module in list(model.named_modules()):
        inside = next((t for t in taken if name.startswith(f"{t}.")), None)
        if inside is not None and not name.startswith(f"{inside}.source.patch_embed."):
            continue
        try:
            if isinstance(module, QuantizedAttention) and type(module) is QuantizedAttention:
                rows = _attention_rows(name, tokens)
                _replace(model, name, FastQuantizedAttention(module, dtype, choice, *rows))
                taken.append(name)
            elif isinstance(module, QuantizedLayer):
                count = tokens if "pwconv" in name else _PROMPT_ROWS
                side = _side(name, model.image_size)
                _replace(model, name, kernel_layer(module, dtype, count, choice, side))
                taken.append(name)
        except UnsupportedModuleError as error:
            kept.append(f"{name}: {error}")
            taken.append(name)
    return kept


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new.eval())

"""Units of reconstruction: the pieces of the model that are fitted one after the other, and their inputs.

``layer``: every layer with weights by itself (AdaRound). ``subblock``: one attention, one MLP, one
convolution block (PTQ4SAM; our default). ``block``: one transformer block (BRECQ, QDrop). What no larger
unit holds is its own unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sam2.modeling.backbones.hieradet import MultiScaleBlock
from sam2.modeling.memory_attention import MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock
from sam2.modeling.sam.transformer import TwoWayAttentionBlock
from sam2.modeling.sam2_utils import MLP
from torch import Tensor, nn

from qcore.models.embedded import InvertedBottleneck
from qcore.quant.affine import QuantizationError
from qcore.quant.attention import QuantizedMultiScaleAttention, QuantizedProducts, QuantizedRoPEAttention
from qcore.quant.layers import QuantizedLayer
from qcore.quant.rollout import STAGES

_CROPS, _CROP, _TOKENS, _WINDOWS = 4, 24, 512, 32
GRANULARITIES = ("layer", "subblock", "block")


class FeedForward(nn.Module):
    """Memory attention's linear - ReLU - linear, which is not a module of its own there."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.linear1: nn.Module = layer.get_submodule("linear1")
        self.linear2: nn.Module = layer.get_submodule("linear2")
        self.activation: Any = layer.activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        out: Tensor = self.linear2(self.activation(self.linear1(x)))
        return out


@dataclass(frozen=True)
class Unit:
    """One piece: the quantized module, its full-precision original, and where its input is seen."""

    name: str
    stage: str
    module: nn.Module
    teacher: nn.Module
    entry: str
    """Name of the module in the model whose input is the unit's input."""
    sampling: str
    """Which part of an input is enough: ``crop`` (N, C, H, W), ``tokens`` (..., C), ``windows`` or
    ``all``.
    """
    channel_dim: int
    """Channel dimension of the output."""

    @property
    def is_cross_attention(self) -> bool:
        """True for attention to memories, the one Mutual-KV touches."""
        return self.name.endswith("cross_attn_image") and isinstance(self.module, QuantizedRoPEAttention)

    def layers(self) -> Iterator[tuple[str, QuantizedLayer]]:
        """The quantized layers inside, by name."""
        for name, module in self.module.named_modules():
            if isinstance(module, QuantizedLayer):
                yield f"{self.name}.{name}".rstrip("."), module


def find_units(
    quantized: nn.Module, teacher: nn.Module, granularity: str, with_eight_bits: bool = False
) -> list[Unit]:
    """All units of the four stages, in the order data flows through them.

    Units that have 8 bits throughout, or are as good as that, are left out unless ``with_eight_bits``:
    nearest rounding and calibrated ranges do for them.

    Raises:
        QuantizationError: unknown granularity.
    """
    if granularity not in GRANULARITIES:
        raise QuantizationError(f"Units are {', '.join(GRANULARITIES)}, not {granularity!r}.")
    units: list[Unit] = []
    for stage in STAGES:
        taken: list[str] = []
        for name, module in quantized.get_submodule(stage).named_modules(prefix=stage):
            if any(name == t or name.startswith(f"{t}.") for t in taken):
                continue
            for unit in _units_at(name, module, teacher, stage, granularity):
                units.append(unit)
                taken.append(unit.name)
                if isinstance(unit.module, FeedForward):
                    taken += [f"{name}.linear1", f"{name}.linear2"]
    return [unit for unit in units if with_eight_bits or _is_worth_fitting(unit)]


def _units_at(
    name: str, module: nn.Module, teacher: nn.Module, stage: str, granularity: str
) -> Iterator[Unit]:
    def whole(sampling: str, channel_dim: int) -> Unit:
        return Unit(name, stage, module, teacher.get_submodule(name), name, sampling, channel_dim)

    if isinstance(module, QuantizedLayer):
        is_linear = isinstance(module.layer, nn.Linear)
        is_plain = isinstance(module.layer, nn.Conv2d) and module.layer.stride == (1, 1)
        yield whole("tokens" if is_linear else "crop" if is_plain else "all", -1 if is_linear else 1)
    elif granularity == "layer":
        return
    elif isinstance(module, InvertedBottleneck):
        yield whole("crop", 1)
    elif isinstance(module, CXBlock):
        yield whole("all", 1)
    elif granularity == "block" and isinstance(
        module, (MultiScaleBlock, MemoryAttentionLayer, TwoWayAttentionBlock)
    ):
        yield whole("all", -1)
    elif isinstance(module, QuantizedMultiScaleAttention):
        yield whole("windows", -1)
    elif isinstance(module, QuantizedProducts):
        yield whole("all", -1)
    elif isinstance(module, MLP):
        yield whole("tokens", -1)
    elif isinstance(module, MemoryAttentionLayer):
        # its attentions are reached below it, in order; the feed-forward part comes last in the block
        for child in ("self_attn", "cross_attn_image"):
            yield from _units_at(f"{name}.{child}", module.get_submodule(child), teacher, stage, granularity)
        original = FeedForward(teacher.get_submodule(name))
        yield Unit(f"{name}.ffn", stage, FeedForward(module), original, f"{name}.linear1", "tokens", -1)


def _is_worth_fitting(unit: Unit) -> bool:
    """Whether any weight or input has fewer than 8 bits.

    For the memory encoder's weights 5 are enough: rounded to nearest they change masks by a two-thousandth of
    what the rest of a 4-bit model does.
    """
    enough = 5 if unit.stage == "memory_encoder" else 8
    return any(
        layer.weight_quantizer.bits < enough
        or (layer.input_quantizer is not None and layer.input_quantizer.bits < 8)
        for _, layer in unit.layers()
    )


@dataclass
class UnitCall:
    """One recorded input of a unit: tensors, by position and by name."""

    clip: int
    frame: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def tensors(self) -> Iterator[Tensor]:
        """All tensors, positional ones first."""
        yield from (a for a in self.args if isinstance(a, Tensor))
        yield from (v for v in self.kwargs.values() if isinstance(v, Tensor))

    def signature(self) -> tuple[Any, ...]:
        """What must agree for two calls to be run as one batch."""
        plain = tuple(v for v in (*self.args, *self.kwargs.values()) if not isinstance(v, Tensor))
        return (tuple(tuple(t.shape) for t in self.tensors()), plain)

    def map(self, function: Any) -> UnitCall:
        """The call with ``function`` applied to every tensor."""

        def one(value: Any) -> Any:
            return function(value) if isinstance(value, Tensor) else value

        return UnitCall(
            self.clip, self.frame, tuple(map(one, self.args)), {k: one(v) for k, v in self.kwargs.items()}
        )


def compact(value: Tensor) -> Tensor:
    """A detached copy in fp16, or in the tensor's own type where that cannot hold it."""
    if value.dtype != torch.float32:
        return value.detach().clone()
    half = value.detach().half()
    return half if bool(torch.isfinite(half).all()) else value.detach().clone()


def widen(value: Tensor) -> Tensor:
    """fp16 to fp32; anything else as it is."""
    return value.float() if value.dtype == torch.float16 else value


def cut(call: UnitCall, sampling: str, seed: int) -> UnitCall:
    """The part of an input that `Unit.sampling` names, the same for equal seeds."""
    generator = torch.Generator().manual_seed(seed)

    def crop(x_nchw: Tensor) -> Tensor:
        height, width = x_nchw.shape[-2:]
        if height <= _CROP and width <= _CROP:
            return x_nchw.contiguous(memory_format=torch.channels_last)
        parts = []
        for _ in range(_CROPS):
            # even offsets keep strided convolutions on their grid
            top = 2 * int(torch.randint(max(1, (height - _CROP) // 2 + 1), (1,), generator=generator))
            left = 2 * int(torch.randint(max(1, (width - _CROP) // 2 + 1), (1,), generator=generator))
            parts.append(x_nchw[..., top : top + _CROP, left : left + _CROP])
        # gradients of depthwise convolutions take a quarter of the time in this layout
        return torch.cat(parts).contiguous(memory_format=torch.channels_last)

    def tokens(x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) > _TOKENS:
            rows = rows[torch.randperm(len(rows), generator=generator)[:_TOKENS].to(x.device)]
        return rows[None]

    def windows(x_bhwc: Tensor) -> Tensor:
        if len(x_bhwc) <= _WINDOWS:
            return x_bhwc
        return x_bhwc[torch.randperm(len(x_bhwc), generator=generator)[:_WINDOWS].to(x_bhwc.device)]

    cutters = {"crop": crop, "tokens": tokens, "windows": windows}
    return call.map(cutters[sampling]) if sampling in cutters else call


def stack(calls: Sequence[UnitCall]) -> UnitCall:
    """One batched call of several with equal signatures; only the batch dimension (0) grows."""
    first = calls[0]
    args = tuple(
        torch.cat([c.args[i] for c in calls]) if isinstance(a, Tensor) else a
        for i, a in enumerate(first.args)
    )
    kwargs = {
        k: torch.cat([c.kwargs[k] for c in calls]) if isinstance(v, Tensor) else v
        for k, v in first.kwargs.items()
    }
    return UnitCall(first.clip, first.frame, args, kwargs)


def run(module: nn.Module, call: UnitCall) -> tuple[Tensor, ...]:
    """A unit's outputs as a tuple of tensors; inputs kept in fp16 are widened first."""
    call = call.map(widen)
    out = module(*call.args, **call.kwargs)
    return out if isinstance(out, tuple) else (out,)

"""Quantizers as modules: they sit in the model, watch data, then round it - or do nothing.

A quantizer's behaviour is an explicit state, never a name or a flag elsewhere. ``p_fp`` (QDrop: the
probability that an element is left unquantized) is 0 except inside `dropping`, which restores it however it
is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

import torch
from torch import Tensor, nn

from qcore.quant.adaround import LearnedRounding
from qcore.quant.affine import QuantizationError, dequantize, fake_quantize, quant_max, quantize
from qcore.quant.observers import Observer, make_observer, observe_weight

SMALLEST_HALF = 2.0**-24
"""The smallest positive number of fp16."""


class QuantizerState(StrEnum):
    """What a quantizer does with a tensor."""

    OFF = "off"
    """Passes it through."""
    OBSERVE = "observe"
    """Passes it through and collects statistics."""
    ON = "on"
    """Rounds it."""


class Chances:
    """Random masks, 1 with probability ``p`` and else 0: stretches from random places of one pool.

    Drawing every mask anew would take longer than the rounding that it hides. Masks are numbers and not bits,
    to choose with ``torch.lerp``: exact for them, and several times as fast as ``torch.where``.
    """

    _POOL = 1 << 22

    def __init__(self, p: float, generator: torch.Generator) -> None:
        self.p, self.generator = p, generator
        self._pool = (torch.rand(self._POOL if p > 0 else 1, generator=generator) < p).float()

    def draw(self, like: Tensor) -> Tensor:
        """A mask of the shape, memory layout and device of ``like``, in float32."""
        count, pool = like.numel(), self._pool.to(like.device)
        self._pool = pool
        places = len(pool) - count + 1 if count <= len(pool) else len(pool)
        start = int(torch.randint(places, (1,), generator=self.generator))
        if start + count > len(pool):
            pool = pool.repeat(math.ceil((start + count) / len(pool)))
        mask = pool[start : start + count]
        layout = torch.empty_like(like, device="meta")
        return mask.as_strided(layout.shape, layout.stride(), mask.storage_offset())


class TensorQuantizer(nn.Module):
    """Base of everything that rounds an activation; subclasses define `_round`."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        quant_max(bits)
        self.bits = bits
        self.state = QuantizerState.OFF
        self.p_fp = 0.0
        self.chances: Chances | None = None

    def _drop(self, original: Tensor, rounded: Tensor) -> Tensor:
        if self.p_fp == 0.0 or self.chances is None:
            return rounded
        return torch.lerp(rounded, original, self.chances.draw(original).to(original.dtype))

    def finish_observing(self) -> None:
        """Turn statistics into quantization parameters and forget the statistics."""
        raise QuantizationError("This quantizer cannot be calibrated.")


class ActivationQuantizer(TensorQuantizer):
    """Affine quantizer of activations: per tensor (``axis`` None) or per channel along ``axis`` (then
    ``channels`` names their number).
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        bits: int,
        observer: str = "average_minmax",
        symmetric: bool = False,
        axis: int | None = None,
        channels: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(bits)
        self.symmetric, self.axis = symmetric, axis
        self._observer: Observer | None = make_observer(observer, axis, seed)
        shape = () if axis is None else (channels,)
        self.register_buffer("scale", torch.ones(shape))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype as ``x``."""
        if self.state is QuantizerState.OFF:
            return x
        if self.state is QuantizerState.OBSERVE:
            assert self._observer is not None
            self._observer.observe(x)
            return x
        rounded = fake_quantize(x.float(), self.scale, self.zero_point, self.bits, self.axis).to(x.dtype)
        return self._drop(x, rounded)

    @property
    def saw_data(self) -> bool:
        """Whether calibration reached this quantizer."""
        return self._observer is not None and self._observer.calls > 0

    def finish_observing(self) -> None:
        """Fix scale and zero point; they broadcast to the registered shape."""
        assert self._observer is not None
        scale, zero_point = self._observer.qparams(self.bits, self.symmetric)
        self.scale = scale.to(self.scale.device).reshape(self.scale.shape)
        self.zero_point = zero_point.to(self.scale.device).reshape(self.scale.shape)
        self._observer = None

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        return f"bits={self.bits}, {self.state.value}, per {'tensor' if self.axis is None else 'channel'}"


class WeightQuantizer(nn.Module):
    """Per-output-channel affine quantizer of one weight: nearest rounding, learned rounding, or frozen
    codes.
    """

    scale: Tensor
    zero_point: Tensor
    codes: Tensor | None

    def __init__(self, bits: int, channels: int, axis: int = 0, symmetric: bool = False) -> None:
        super().__init__()
        quant_max(bits)
        self.bits, self.axis, self.symmetric = bits, axis, symmetric
        self.state = QuantizerState.OFF
        self.rounding: LearnedRounding | None = None
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("zero_point", torch.zeros(channels, dtype=torch.int32))
        self.register_buffer("codes", None)

    def observe(self, weight: Tensor, observer: str) -> None:
        """Fix scale and zero point from the weight itself (needs no data).

        Scales are rounded to what fp16 holds, so that a bundle stores them in two bytes without any change. A
        channel with a scale below fp16's smallest number has no weight worth a step and gets that number.
        """
        scale, self.zero_point = observe_weight(weight, observer, self.axis, self.bits, self.symmetric)
        fits = bool((scale < 2.0**15).all())
        self.scale = scale.half().float().clamp(min=SMALLEST_HALF) if fits else scale

    @property
    def is_frozen(self) -> bool:
        """True once the codes are decided; the layer's weight then already holds their values."""
        return self.codes is not None

    def forward(self, weight: Tensor) -> Tensor:
        """The weight to compute with, same shape."""
        if self.state is not QuantizerState.ON or self.is_frozen:
            return weight
        if self.rounding is not None:
            return self.rounding.soft_weight()
        return fake_quantize(weight, self.scale, self.zero_point, self.bits, self.axis)

    def start_learning(self, weight: Tensor, decided: bool = False) -> LearnedRounding:
        """Begin AdaRound; returns the rounding whose ``v`` is to be optimized."""
        self.rounding = LearnedRounding(weight, self.scale, self.zero_point, self.bits, self.axis, decided)
        return self.rounding

    @torch.no_grad()
    def freeze(self, weight: Tensor) -> Tensor:
        """Decide the codes (learned rounding if there is one, else nearest); returns their real values."""
        if self.rounding is not None:
            self.codes = self.rounding.hard_codes()
        else:
            self.codes = quantize(weight, self.scale, self.zero_point, self.bits, self.axis)
        self.rounding = None
        self.state = QuantizerState.ON
        return dequantize(self.codes, self.scale, self.zero_point, self.axis)

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        return f"bits={self.bits}, {'frozen' if self.is_frozen else self.state.value}"


def quantizers(root: nn.Module) -> Iterator[tuple[str, TensorQuantizer | WeightQuantizer]]:
    """Every quantizer below ``root`` with its name, in module order."""
    for name, module in root.named_modules():
        if isinstance(module, (TensorQuantizer, WeightQuantizer)):
            yield name, module


def set_state(
    root: nn.Module, *, weights: QuantizerState | None = None, activations: QuantizerState | None = None
) -> None:
    """Switch all weight and / or activation quantizers below ``root``; None leaves that kind alone."""
    for _, quantizer in quantizers(root):
        wanted = weights if isinstance(quantizer, WeightQuantizer) else activations
        if wanted is not None:
            quantizer.state = wanted


@contextmanager
def dropping(root: nn.Module, chances: Chances) -> Iterator[None]:
    """QDrop inside the block: activation quantizers below ``root`` leave elements alone with probability
    ``chances.p``.
    """
    touched = [q for _, q in quantizers(root) if isinstance(q, TensorQuantizer)]
    for quantizer in touched:
        quantizer.p_fp, quantizer.chances = chances.p, chances
    try:
        yield
    finally:
        for quantizer in touched:
            quantizer.p_fp, quantizer.chances = 0.0, None

"""AdaRound's learned rounding (Nagel et al. 2020; the paper's Eqs. 2 and 3): up or down, decided by
gradients.

W~ = s (clamp(floor(W / s) + h(V) + z, 0, 2^k - 1) - z)          (Eq. 3, with the dequantization it leaves
out) R(V) = sum (1 - |2 h(V) - 1|^b)                                   (the regularizer in Eq. 2)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qcore.quant.affine import along_axis, quant_max

ZETA, GAMMA_STRETCH = 1.1, -0.1
"""Stretch of the rectified sigmoid, so that h reaches 0 and 1 at finite V."""


def rectified_sigmoid(v: Tensor) -> Tensor:
    """h(V) in 0..1."""
    return torch.clamp(torch.sigmoid(v) * (ZETA - GAMMA_STRETCH) + GAMMA_STRETCH, 0.0, 1.0)


class LearnedRounding(nn.Module):
    """V for one weight tensor. Starts at soft rounding that reproduces W exactly inside the range, or
    (``decided``) close to nearest rounding, h = 0.05 or 0.95, from where a steady gradient can still turn it.
    """

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        bits: int,
        axis: int,
        decided: bool = False,
    ) -> None:
        super().__init__()
        self.bits = bits
        self.scale = along_axis(scale.detach(), weight.ndim, axis)
        self.zero_point = along_axis(zero_point.detach(), weight.ndim, axis)
        ratio = weight.detach() * (1.0 / self.scale)
        self.floor = torch.floor(ratio)
        fraction = (ratio - self.floor).clamp(1e-4, 1 - 1e-4)
        if decided:
            fraction = 0.05 + 0.9 * (torch.round(ratio) - self.floor)
        self.v = nn.Parameter(-torch.log((ZETA - GAMMA_STRETCH) / (fraction - GAMMA_STRETCH) - 1))

    def _codes(self, up: Tensor) -> Tensor:
        return torch.clamp(self.floor + up + self.zero_point, 0, quant_max(self.bits))

    def soft_weight(self) -> Tensor:
        """W~ of Eq. 3 with h(V) between 0 and 1; differentiable in V."""
        return (self._codes(rectified_sigmoid(self.v)) - self.zero_point) * self.scale

    def hard_codes(self) -> Tensor:
        """Codes (uint8) after deciding every rounding: up where V >= 0."""
        return self._codes((self.v.detach() >= 0).to(self.floor.dtype)).to(torch.uint8)

    def regularizer(self, beta: float) -> Tensor:
        """R(V): 0 when every h is 0 or 1; large ``beta`` leaves the middle alone, small ``beta`` empties
        it.
        """
        return (1 - (2 * rectified_sigmoid(self.v) - 1).abs().pow(beta)).sum()

    @torch.no_grad()
    def undecided(self) -> float:
        """Share of h(V) in (0.05, 0.95)."""
        h = rectified_sigmoid(self.v)
        return float(((h > 0.05) & (h < 0.95)).float().mean())


def annealed_beta(progress: float, start: float, end: float, warmup: float) -> float | None:
    """b at ``progress`` 0..1 of the iterations: None during the warm-up, then linear from ``start`` to
    ``end``.
    """
    if progress < warmup:
        return None
    done = (progress - warmup) / max(1e-9, 1 - warmup)
    return end + (start - end) * max(0.0, 1.0 - done)

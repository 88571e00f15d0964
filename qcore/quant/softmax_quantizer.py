"""Logarithmic quantizer of attention probabilities, with adaptive granularity (PTQ4SAM's AGQ, made k-bit).

    q = round(-tau log2(a / s))          a_hat = s 2^(-q / tau)

The published form sends every q >= 2^k to zero *in addition* to 2^k live codes, which is 2^k + 1 levels and
does not fit k bits. Here the code 2^k - 1 is reserved for zero. ``s`` is one calibrated number, or each
row's maximum (``row_scale``), which a running-maximum softmax has at hand anyway.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcore.quant.affine import QuantizationError, quant_max
from qcore.quant.fake_quantize import QuantizerState, TensorQuantizer

_CALLS, _ROWS = 8, 32


class LogSoftmaxQuantizer(TensorQuantizer):
    """Probabilities (..., rows, keys) in 0..1 to 2^bits levels."""

    scale: Tensor

    def __init__(
        self, bits: int, taus: tuple[int, ...] = (1,), row_scale: bool = False, seed: int = 0
    ) -> None:
        super().__init__(bits)
        if not taus or any(tau not in (1, 2, 4) for tau in taus):
            raise QuantizationError("The granularity of log2 codes is 1, 2 or 4.")
        self.taus, self.tau, self.row_scale = taus, taus[0], row_scale
        self.register_buffer("scale", torch.ones(()))
        self._generator = torch.Generator().manual_seed(seed)
        self._samples: list[tuple[Tensor, Tensor]] = []
        self.calls = 0

    def codes(self, probabilities: Tensor) -> Tensor:
        """Codes 0..2^bits-1 as floats; the last one means zero."""
        zero_code = quant_max(self.bits)
        steps = torch.round(-self.tau * torch.log2(probabilities / self._scale(probabilities)))
        return torch.where(steps > zero_code - 1, float(zero_code), steps.clamp(min=0))

    def decode(self, codes: Tensor, scale: Tensor) -> Tensor:
        """Probabilities of codes."""
        return torch.where(codes >= quant_max(self.bits), 0.0, scale * torch.exp2(-codes / self.tau))

    def _scale(self, probabilities: Tensor) -> Tensor:
        if self.row_scale:
            return probabilities.detach().amax(dim=-1, keepdim=True).clamp(min=1e-12)
        return self.scale

    def forward(self, probabilities: Tensor, values: Tensor | None = None) -> Tensor:
        """Same shape. ``values`` (..., keys, channels) are what the probabilities weigh; needed to
        observe.
        """
        if self.state is QuantizerState.OFF:
            return probabilities
        if self.state is QuantizerState.OBSERVE:
            self._remember(probabilities, values)
            return probabilities
        codes = self.codes(probabilities.detach())
        rounded = self.decode(codes, self._scale(probabilities)).to(probabilities.dtype)
        if probabilities.requires_grad and torch.is_grad_enabled():
            alive = (codes > 0) & (codes < quant_max(self.bits))
            rounded = rounded + (probabilities - probabilities.detach()) * alive
        return self._drop(probabilities, rounded)

    @property
    def saw_data(self) -> bool:
        """Whether calibration reached this quantizer."""
        return self.calls > 0

    def _remember(self, probabilities: Tensor, values: Tensor | None) -> None:
        if values is None:
            raise QuantizationError(
                "Attention probabilities are observed together with the values they weigh."
            )
        self.calls += 1
        if len(self._samples) >= _CALLS:
            return
        rows = torch.randint(probabilities.shape[-2], (_ROWS,), generator=self._generator)
        batch = slice(0, 4)
        self._samples.append(
            (probabilities[batch][..., rows, :].detach().clone(), values[batch].detach().clone())
        )

    def finish_observing(self) -> None:
        """Choose tau (and the scale) of least |Q(A) V - A V|^2.4 on the remembered rows."""
        if not self._samples:
            raise QuantizationError("An attention quantizer never saw calibration data.")
        top = max(float(a.max()) for a, _ in self._samples)
        trials = [1.0] if self.row_scale else [top * 2.0**-step for step in torch.linspace(0, 4, 12).tolist()]
        best = (float("inf"), self.taus[0], trials[0])
        for tau in self.taus:
            for scale in trials:
                self.tau, self.scale = tau, torch.tensor(scale, device=self.scale.device)
                error = 0.0
                for probabilities, values in self._samples:
                    rounded = self.decode(self.codes(probabilities), self._scale(probabilities))
                    error += float(((rounded - probabilities) @ values).abs().pow(2.4).mean())
                if error < best[0]:
                    best = (error, tau, scale)
        self.tau, self.scale = best[1], torch.tensor(best[2], device=self.scale.device)
        self._samples.clear()

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        return f"bits={self.bits}, log2, tau={self.tau}, {'row' if self.row_scale else 'fixed'} scale"

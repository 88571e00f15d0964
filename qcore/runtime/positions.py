"""Position codes made once per size: SAM 2 copies those of every level anew at every frame."""

from __future__ import annotations

import torch
from sam2.modeling.position_encoding import PositionEmbeddingSine
from torch import Tensor, nn

_MAX_SIZES = 8


class KeptPositions(nn.Module):
    """Drop-in for `PositionEmbeddingSine`; its results are shared and must not be written to."""

    def __init__(self, source: PositionEmbeddingSine) -> None:
        super().__init__()
        self.source = source
        self._known: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Position code (B, C', H, W), float32, of a map (B, C, H, W); a view of one for the whole batch."""
        key = (tuple(x.shape[-2:]), x.device)
        known = self._known.get(key)
        if known is None:
            known = self.source(x[:1])
            if len(self._known) >= _MAX_SIZES:
                self._known = {}
            self._known[key] = known
        return known.expand(x.shape[0], -1, -1, -1)

"""Objects that are tracked together compete for pixels: each pixel goes to the one that is surest of it.

A small model takes in what looks like its object, and once a neighbour is in the mask it stays in the memory.
The neighbour's own logits know better. What an object loses, its memory does not get either. SAM 2 has the
same rule as `non_overlap_masks`, off by default; here a part and its whole do not compete.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch

from qcore import masks
from qcore.masks import Rle
from qcore.tracking.decoding import Decoded

NESTED_SHARE = 0.5
"""Two objects whose common pixels are this share of the smaller one were meant to overlap."""

NESTING_KEYFRAMES = 8
"""Keyframes of an object that are looked at before a pass: hundreds, all accepted, would hold it up."""

LOST_LOGIT = -10.0
"""Most that the mask logit of a lost pixel may be: upstream's value."""


class Nesting:
    """Pairs of objects that may overlap, because the user's own frames show them doing so."""

    def __init__(self) -> None:
        self._pairs: set[frozenset[int]] = set()

    def between(self, one: int, other: int) -> bool:
        """Whether two objects may overlap."""
        return frozenset((one, other)) in self._pairs

    def look(self, given: Mapping[int, Rle], known: Mapping[int, Rle]) -> None:
        """Learn from one frame.

        Args:
            given: masks by object, of objects that the user spoke about on this frame.
            known: masks of other objects there.
        """
        everyone = {**known, **given}
        for one, mask in given.items():
            for other, theirs in everyone.items():
                if other != one and not self.between(one, other) and _is_nested(mask, theirs):
                    self._pairs.add(frozenset((one, other)))

    @classmethod
    def of(
        cls,
        keyframes: Mapping[int, Mapping[int, Rle]],
        mask_at: Callable[[int, int], Rle | None],
    ) -> Nesting:
        """What all keyframes of some objects show.

        Args:
            keyframes: masks by frame, by object.
            mask_at: (frame index, object id) -> a mask known from elsewhere, or None.
        """
        nesting = cls()
        by_frame: dict[int, dict[int, Rle]] = {}
        for object_id, frames in keyframes.items():
            for t, mask in frames.items():
                by_frame.setdefault(t, {})[object_id] = mask
        for t, given in by_frame.items():
            found = {k: mask_at(t, k) for k in keyframes if k not in given}
            nesting.look(given, {k: mask for k, mask in found.items() if mask is not None})
        return nesting


def _is_nested(one: Rle, other: Rle) -> bool:
    smaller = min(one.area, other.area)
    return smaller > 0 and masks.merge([one, other], intersect=True).area >= NESTED_SHARE * smaller


def settle(object_ids: Sequence[int], decoded: Sequence[Decoded], nesting: Nesting) -> list[Decoded]:
    """The masks of a frame's objects after they competed.

    A pixel stays with an object unless a rival's logit there is larger; of equal ones the first keeps it.
    """
    rivals = [
        [k for k, other in enumerate(object_ids) if other != own and not nesting.between(own, other)]
        for own in object_ids
    ]
    low = _settled([d.logits_b1hw for d in decoded], rivals)
    high = _settled([d.high_res_b1ss for d in decoded], rivals)
    return [
        dataclasses.replace(d, logits_b1hw=logits, high_res_b1ss=high_logits)
        for d, logits, high_logits in zip(decoded, low, high, strict=True)
    ]


def _settled(logits: Sequence[torch.Tensor], rivals: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    settled = []
    for index, (own, others) in enumerate(zip(logits, rivals, strict=True)):
        is_lost = torch.zeros_like(own, dtype=torch.bool)
        for k in others:
            is_lost |= logits[k] >= own if k < index else logits[k] > own
        settled.append(torch.where(is_lost, own.clamp(max=LOST_LOGIT), own))
    return settled

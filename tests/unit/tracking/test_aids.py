"""Which steps beyond SAM 2 a session takes."""

from __future__ import annotations

import copy

from sam2.modeling.sam2_base import SAM2Base

from qcore.tracking.aids import NO_AIDS, Aids


def test_only_small_inputs_get_them(embedded_model: SAM2Base) -> None:
    assert Aids.for_model(embedded_model) == Aids(True, True, True, True, True, True)
    large = copy.copy(embedded_model)
    large.image_size = 1024
    assert Aids.for_model(large) == NO_AIDS


def test_none_is_taken_unasked() -> None:
    assert Aids(*[False] * 5) == NO_AIDS

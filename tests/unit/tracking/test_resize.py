"""The banded resize against Pillow's own."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qcore.tracking.resize import resize_square

SIZES = st.integers(1, 90)


@given(SIZES, st.integers(0, 60), st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_pictures_are_resized_as_pillow_does(height: int, more: int, side: int, seed: int) -> None:
    width = height + more
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = np.array(Image.fromarray(picture).resize((side, side))).astype(int)
    got = resize_square(picture, side).numpy()
    assert (got == np.round(got)).all()
    # what lies on a half may fall to either side, in both passes
    assert np.abs(got.astype(int) - expected).max() <= 2


def test_hardly_a_value_of_a_720p_picture_differs_from_pillows() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    expected = np.array(Image.fromarray(picture).resize((384, 384))).astype(int)
    difference = np.abs(resize_square(picture, 384).numpy().astype(int) - expected)
    assert difference.max() <= 2
    assert (difference > 0).mean() < 1e-4

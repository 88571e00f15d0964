"""Colours for objects: the DAVIS palette by default, a colour-blind-safe one on request."""

from __future__ import annotations

from collections.abc import Collection

OKABE_ITO = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999")
"""Eight colours that people with any common colour-vision deficiency tell apart (Okabe and Ito, 2008)."""


def davis_color(index: int) -> tuple[int, int, int]:
    """Colour of pixel value ``index`` (0..255) in DAVIS and VOC annotations, 0..255 each.

    The bits of the index are dealt to red, green and blue in turn, most significant colour bit first.
    """
    red = green = blue = 0
    for bit in range(8):
        red |= (index >> (3 * bit) & 1) << (7 - bit)
        green |= (index >> (3 * bit + 1) & 1) << (7 - bit)
        blue |= (index >> (3 * bit + 2) & 1) << (7 - bit)
    return red, green, blue


def davis_palette() -> bytes:
    """The 768 bytes of the palette of a DAVIS PNG."""
    return bytes(value for index in range(256) for value in davis_color(index))


def to_hex(color: tuple[int, int, int]) -> str:
    """``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def from_hex(color: str) -> tuple[int, int, int]:
    """Red, green, blue, 0..255 each, of ``#rrggbb``."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def next_color(used: Collection[str], colorblind_safe: bool = False) -> str:
    """The first colour of the palette that no object has yet; repeats where all are taken."""
    if colorblind_safe:
        choices = list(OKABE_ITO)
    else:
        choices = [to_hex(davis_color(index)) for index in range(1, 255)]
    taken = {color.lower() for color in used}
    free = [color for color in choices if color not in taken]
    return free[0] if free else choices[len(used) % len(choices)]

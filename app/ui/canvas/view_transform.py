"""Where the picture lies in the canvas: pure arithmetic between video pixels and widget coordinates.

Video coordinates are pixels with the origin at the top left corner of the frame; widget coordinates are
Qt's logical pixels. A zoom of 1.0 shows one video pixel on one pixel of the *screen*, so the scale used here
is the zoom divided by the device pixel ratio.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

MIN_SCALE = 0.02
MAX_SCALE = 64.0
KEEP_VISIBLE = 48.0
"""So many logical pixels of the picture can never be panned out of the canvas."""


@dataclass(frozen=True, slots=True)
class ViewTransform:
    """``widget = video * scale + offset``; immutable, every operation returns a new one."""

    scale: float = 1.0
    """Logical widget pixels per video pixel, always positive."""
    offset_x: float = 0.0
    offset_y: float = 0.0

    def to_widget(self, x: float, y: float) -> tuple[float, float]:
        """Video pixels to widget coordinates."""
        return x * self.scale + self.offset_x, y * self.scale + self.offset_y

    def to_video(self, x: float, y: float) -> tuple[float, float]:
        """Widget coordinates to video pixels; may lie outside the frame."""
        return (x - self.offset_x) / self.scale, (y - self.offset_y) / self.scale

    def zoomed(self, factor: float, at_x: float, at_y: float) -> ViewTransform:
        """Scaled by a factor, with the video point under widget point (at_x, at_y) staying there."""
        scale = min(max(self.scale * factor, MIN_SCALE), MAX_SCALE)
        ratio = scale / self.scale
        return ViewTransform(
            scale, at_x - (at_x - self.offset_x) * ratio, at_y - (at_y - self.offset_y) * ratio
        )

    def panned(self, dx: float, dy: float) -> ViewTransform:
        """Moved by widget pixels."""
        return replace(self, offset_x=self.offset_x + dx, offset_y=self.offset_y + dy)

    def kept_in_view(self, video_size: tuple[int, int], view_size: tuple[float, float]) -> ViewTransform:
        """Moved back as far as needed for `KEEP_VISIBLE` pixels of the picture to stay in the canvas.

        Sizes are (width, height), of the frame in video pixels and of the canvas in widget pixels.
        """
        offsets = []
        for offset, length, view in zip((self.offset_x, self.offset_y), video_size, view_size):
            shown = length * self.scale
            margin = min(KEEP_VISIBLE, shown, view)
            offsets.append(min(max(offset, margin - shown), view - margin))
        return replace(self, offset_x=offsets[0], offset_y=offsets[1])


def fitted(
    video_size: tuple[int, int], view_size: tuple[float, float], margin: float = 0.0, max_scale: float = 4.0
) -> ViewTransform:
    """The whole frame centred in the canvas, at most ``max_scale`` large; sizes are (width, height)."""
    width, height = max(video_size[0], 1), max(video_size[1], 1)
    free_width = max(view_size[0] - 2 * margin, 1.0)
    free_height = max(view_size[1] - 2 * margin, 1.0)
    scale = min(free_width / width, free_height / height, max_scale)
    return centred(video_size, view_size, max(scale, MIN_SCALE))


def centred(video_size: tuple[int, int], view_size: tuple[float, float], scale: float) -> ViewTransform:
    """The frame's centre in the canvas's centre at a given scale."""
    return ViewTransform(
        scale,
        (view_size[0] - video_size[0] * scale) / 2,
        (view_size[1] - video_size[1] * scale) / 2,
    )

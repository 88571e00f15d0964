"""Translation of what the user reads: every visible string of the window goes through `tr`."""

from __future__ import annotations

from PySide6.QtCore import QCoreApplication


def tr(text: str) -> str:
    """The text in the user's language."""
    return QCoreApplication.translate("app", text)


def frames_phrase(first: int, last: int) -> str:
    """ "frame 7" or "frames 7–12"."""
    if first == last:
        return tr("frame {0}").format(first)
    return tr("frames {0}–{1}").format(first, last)


def objects_phrase(count: int) -> str:
    """ "1 object" or "2 objects"."""
    return tr("1 object") if count == 1 else tr("{0} objects").format(count)


def masks_phrase(count: int) -> str:
    """ "1 mask" or "2 masks"."""
    return tr("1 mask") if count == 1 else tr("{0} masks").format(count)


def frame_count_phrase(count: int) -> str:
    """ "1 frame" or "2 frames"."""
    return tr("1 frame") if count == 1 else tr("{0} frames").format(count)


def duration_phrase(seconds: float) -> str:
    """A duration as one would say it: "9 s", "2 min 10 s", "1 h 5 min"."""
    total = max(1, round(seconds))
    if total < 60:
        return tr("{0} s").format(total)
    minutes, rest = divmod(total, 60)
    if minutes < 10 and rest >= 5:
        return tr("{0} min {1} s").format(minutes, rest)
    if minutes < 60:
        return tr("{0} min").format(minutes)
    hours, minutes = divmod(minutes, 60)
    return tr("{0} h {1} min").format(hours, minutes)


def clock(seconds: float) -> str:
    """A position in a clip: ``mm:ss.cc`` or ``h:mm:ss.cc``."""
    hundredths = round(max(0.0, seconds) * 100)
    minutes, hundredths = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    text = f"{minutes:02d}:{hundredths // 100:02d}.{hundredths % 100:02d}"
    return f"{hours}:{text}" if hours else text

"""What the timeline's tool tips say."""

from __future__ import annotations

import math

from PySide6.QtCore import QCoreApplication

from app.ui.timeline.layout import Part, Place
from app.ui.timeline.still import Content
from app.ui.timeline.time_axis import format_time
from app.ui.timeline.view_model import Cell, Lane


def tip(content: Content, place: Place, frame: int) -> str:
    """Frame and time, and what the lane there holds; empty where there is nothing to say."""
    if content.axis.frame_count == 0 or place.part in (Part.NOTHING, Part.BELOW_LANES):
        return ""
    if place.part is Part.LANE_NAME:
        return content.lanes[place.lane].name
    lines = [_tr("Frame {0} · {1}").format(frame, format_time(frame, content.fps))]
    lanes: tuple[Lane, ...] = ()
    if place.part is Part.LANE:
        lanes = (content.lanes[place.lane],)
    elif place.part is Part.CONFIDENCE:
        lanes = content.selected
    elif place.part is Part.STRIP and content.encoded is not None and frame < len(content.encoded):
        ready = content.encoded[frame]
        lines.append(_tr("Features are ready") if ready else _tr("Features not computed yet"))
    for lane in lanes:
        if frame < len(lane.cells):
            lines.append(f"{lane.name}: {describe(lane, frame, content.low_confidence)}")
    return "\n".join(lines)


def describe(lane: Lane, frame: int, low_confidence: float) -> str:
    """One object on one frame in words: where the mask came from, confidence, review."""
    words = {
        Cell.NONE: _tr("not tracked yet"),
        Cell.ABSENT: _tr("out of view"),
        Cell.TRACKED: _tr("tracked"),
        Cell.IMPORTED: _tr("imported"),
        Cell.EDITED: _tr("edited by hand"),
        Cell.PROMPTED: _tr("prompted"),
    }
    parts = [words[Cell(int(lane.cells[frame]))]]
    if lane.gone is not None and lane.gone[frame]:
        parts = [_tr("marked as not in view")]
    confidence = float(lane.confidence[frame])
    if not math.isnan(confidence):
        text = _tr("confidence {0:.2f} (low)") if confidence < low_confidence else _tr("confidence {0:.2f}")
        parts.append(text.format(confidence))
    if lane.reviewed[frame]:
        parts.append(_tr("accepted"))
    return ", ".join(parts)


def _tr(text: str) -> str:
    return QCoreApplication.translate("Timeline", text)

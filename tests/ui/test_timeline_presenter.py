"""How often the timeline is told what changed."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PySide6.QtCore import QObject, Signal

from app.project.changes import Change, Edit, Key, Kind
from app.ui.document import Document
from app.ui.state import Workspace
from app.ui.timeline.timeline import Timeline
from app.ui.timeline_presenter import AGAIN_MS, REFRESH_MS, TimelinePresenter

FRAMES = 40
SOON_MS = 1.1 * REFRESH_MS
"""Qt's timers are a twentieth late or early."""


class Encoder(QObject):
    """What the presenter wants of an engine."""

    encoded_changed = Signal(object)


class CountingTimeline(Timeline):
    def __init__(self):
        super().__init__()
        self.refreshed_at = []
        self.flags = None

    def set_lanes(self, lanes):
        self.refreshed_at.append(time.monotonic())
        super().set_lanes(lanes)

    def set_encoded(self, encoded):
        self.flags = encoded
        super().set_encoded(encoded)


def change(kind, frame=3):
    return Change("Track", (Edit(Key(kind, 1, frame), None, None),))


@pytest.fixture
def parts(qtbot, settings):
    timeline, document, workspace, encoder = CountingTimeline(), Document(), Workspace(), Encoder()
    qtbot.addWidget(timeline)
    presenter = TimelinePresenter(timeline, document, workspace, encoder, settings)
    workspace.set_clip(np.arange(FRAMES) / 25, 25.0)
    qtbot.waitUntil(lambda: len(timeline.refreshed_at) == 1)
    yield timeline, document, workspace, encoder, presenter
    presenter.deleteLater()


def test_masks_that_keep_coming_are_shown_some_times_a_second(qtbot, parts):
    timeline, document, _, encoder, _ = parts
    for frame in range(FRAMES):
        document.changed.emit(change(Kind.MASK, frame))
        encoder.encoded_changed.emit(np.arange(FRAMES) <= frame)
        qtbot.wait(AGAIN_MS // 10)
    qtbot.waitUntil(lambda: timeline.flags is not None and bool(timeline.flags.all()))
    assert len(timeline.refreshed_at) > 2
    assert np.diff(timeline.refreshed_at).min() > 0.9 * AGAIN_MS / 1000


def test_what_the_user_does_does_not_wait_for_them(qtbot, parts):
    _, document, workspace, _, presenter = parts
    presenter.refresh()
    document.changed.emit(change(Kind.MASK))
    assert presenter._refresh.remainingTime() > SOON_MS
    workspace.select([1])
    assert 0 <= presenter._refresh.remainingTime() <= SOON_MS


def test_a_prompt_brings_its_mask_along_soon(qtbot, parts):
    _, document, _, _, presenter = parts
    presenter.refresh()
    both = (*change(Kind.PROMPT).edits, *change(Kind.MASK).edits)
    document.changed.emit(Change("Box", both))
    assert 0 <= presenter._refresh.remainingTime() <= SOON_MS


def test_flags_of_another_clip_are_not_shown(qtbot, parts):
    timeline, _, _, encoder, _ = parts
    encoder.encoded_changed.emit(np.ones(FRAMES + 1, np.bool_))
    qtbot.waitUntil(lambda: len(timeline.refreshed_at) == 2)
    assert timeline.flags is None

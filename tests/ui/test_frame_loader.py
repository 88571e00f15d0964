"""Frames for display come from another thread; only the newest request counts."""

from __future__ import annotations

import numpy as np
import pytest
from fake_tracking import picture

from app.engine.frames import FrameLoader


@pytest.fixture
def loader(qtbot):
    loader = FrameLoader()
    yield loader
    loader.shutdown()


def opened(qtbot, loader, path):
    with qtbot.waitSignal(loader.opened) as signal:
        request = loader.open(str(path))
    assert signal.args[0] == request
    return signal.args[1]


def test_opening_describes_the_video_and_gives_a_second_decoder(qtbot, loader, clip):
    video = opened(qtbot, loader, clip)
    assert (video.info.width, video.info.height, video.info.frame_count) == (96, 64, 24)
    assert len(video.timestamps_s) == 24 and video.info.fps == pytest.approx(12)
    assert np.abs(video.engine_source[7].astype(int) - picture(7)).max() < 30
    video.engine_source.close()


def test_a_requested_frame_arrives_with_its_number(qtbot, loader, clip):
    opened(qtbot, loader, clip).engine_source.close()
    with qtbot.waitSignal(loader.frame_ready, check_params_cb=lambda i, _: i == 20) as signal:
        loader.request(3)
        loader.request(20)
    assert np.abs(signal.args[1].astype(int) - picture(20)).max() < 30


def test_a_file_that_is_no_video_gives_one_sentence_and_the_old_one_stays(qtbot, loader, clip, tmp_path):
    opened(qtbot, loader, clip).engine_source.close()
    bad = tmp_path / "notes.mp4"
    bad.write_text("this is not a video")
    with qtbot.waitSignal(loader.open_failed) as signal:
        loader.open(str(bad))
    assert signal.args[1].count(".") >= 1 and "Traceback" not in signal.args[1]
    with qtbot.waitSignal(loader.frame_ready):
        loader.request(0)


def test_closing_the_video_ends_deliveries(qtbot, loader, clip):
    opened(qtbot, loader, clip).engine_source.close()
    loader.close_video()
    with qtbot.assertNotEmitted(loader.frame_ready, wait=100):
        loader.request(1)

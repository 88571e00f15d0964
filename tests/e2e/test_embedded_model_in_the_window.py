"""The window with the model that is shipped: a small synthetic clip always, a real one where it is there."""

from __future__ import annotations

import shutil

import av
import numpy as np
import pytest
from PySide6.QtCore import Qt

from app.engine.backend import QcoreBackend
from app.project.project import Project
from qcore import masks


def ball(frame):
    """(x, y) of the ball's middle."""
    return 60 + 5 * frame, 90


def write_ball(path, frames=8):
    """A bright ball over a dim, uneven background, 256 x 192."""
    rows, columns = np.mgrid[0:192, 0:256]
    ground = np.stack([40 + rows // 6, 60 + columns // 8, 50 + (rows + columns) // 14], axis=-1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = 256, 192, "yuv420p"
        for frame in range(frames):
            picture = ground.astype(np.uint8).copy()
            picture[truth(frame) > 0] = (235, 80, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def truth(frame):
    rows, columns = np.mgrid[0:192, 0:256]
    x, y = ball(frame)
    return (((columns - x) ** 2 + (rows - y) ** 2) <= 30**2).astype(np.uint8)


def test_a_ball_is_boxed_tracked_corrected_and_tracked_again(open_window, tmp_path):
    path = write_ball(tmp_path / "ball.mp4")
    d = open_window(QcoreBackend())
    d.open(path)
    d.until(lambda: d.window.engine.model.is_ready, 120_000)
    x, y = ball(0)
    d.drag(x - 33, y - 33, x + 33, y + 33)
    d.until(lambda: not d.window.prompts.is_waiting, 60_000)
    first = d.project.mask(0, 1)
    assert masks.iou(first.rle, masks.encode(truth(0))) > 0.7
    d.key(Qt.Key.Key_T)
    d.tracked()
    assert list(d.project.frames_with_mask(1)) == list(range(8))
    scores = [masks.iou(d.project.mask(f, 1).rle, masks.encode(truth(f))) for f in range(8)]
    assert np.mean(scores) > 0.6
    d.window.navigation.jump(4)
    d.at(4)
    d.click(*ball(4))
    d.until(lambda: not d.window.prompts.is_waiting, 60_000)
    corrected = d.project.mask(4, 1).rle
    d.key(Qt.Key.Key_R)
    d.tracked()
    project_path = d.project.path
    d.close()
    with Project.open(project_path) as project:
        assert project.mask(4, 1).rle == corrected
        assert project.mask(0, 1).rle == first.rle
        assert project.provenance[-1].model == "embedded"


@pytest.mark.slow
def test_the_dog_of_the_real_clip(open_window, shared_data, tmp_path):
    path = tmp_path / "01_dog.mp4"
    shutil.copyfile(shared_data / "clips" / "01_dog.mp4", path)
    d = open_window(QcoreBackend())
    d.open(path)
    d.until(lambda: d.window.engine.model.is_ready, 120_000)
    d.drag(445, 370, 700, 555)
    d.until(lambda: not d.window.prompts.is_waiting, 60_000)
    area = d.project.mask(0, 1).rle.area
    assert 8_000 < area < 45_000  # the dog fills about half of its box
    for frame, key in ((0, Qt.Key.Key_I), (6, Qt.Key.Key_O)):
        d.window.navigation.jump(frame)
        d.key(key)
    d.window.navigation.jump(0)
    d.key(Qt.Key.Key_T)
    d.tracked()
    project_path = d.project.path
    d.close()
    with Project.open(project_path) as project:
        assert list(project.frames_with_mask(1)) == list(range(7))
        overlaps = [masks.iou(project.mask(f, 1).rle, project.mask(f + 1, 1).rle) for f in range(6)]
        assert min(overlaps) > 0.4

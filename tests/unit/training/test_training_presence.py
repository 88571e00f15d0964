from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from qcore import masks
from qcore.tracking.types import MaskResult, Prompt
from qcore.training.errors import TrainingError
from qcore.training.presence import ClipSource, ExitClip, exit_clips, score_presence
from qcore.video import FrameSource


class _TruthTracker:
    """Knows the truth of the clips; says what it is told to say about absence."""

    def __init__(self, clips: list[ExitClip], notices: bool, loses_every: int = 0) -> None:
        self.truth = {clip.name: clip.truth_thw for clip in clips}
        self.notices, self.loses_every = notices, loses_every

    def track(self, source: FrameSource, prompts: Sequence[Prompt]) -> Iterator[MaskResult]:
        for t, mask in enumerate(self.truth[source.path.name]):
            present = bool(mask.any())
            if self.loses_every and t % self.loses_every == 0:
                present = False
            said = mask if present or self.notices else np.ones_like(mask)
            yield MaskResult(
                t, prompts[0].object_id, masks.encode(said), 0.9, 0.9 if said.any() and present else 0.1
            )


class _StaticTracker:
    def track(self, source: FrameSource, prompts: Sequence[Prompt]) -> Iterator[MaskResult]:
        mask = np.zeros(source.size, np.uint8)
        mask[10:20, 10:20] = 1
        for t in range(len(source)):
            yield MaskResult(t, prompts[0].object_id, masks.encode(mask), 0.9, 0.9)


def test_objects_leave_and_return(davis_root: Path) -> None:
    clips = list(exit_clips(davis_root, 20))
    assert [clip.name for clip in clips] == ["disc+square", "square+disc"]
    for clip in clips:
        seen = clip.truth_thw.any((1, 2))
        assert seen[0]
        assert seen[-1]
        assert not seen.all()
        assert ((clip.in_view_t == 0) == ~seen).all()
        # the pasted object is the only red that the truth covers
        inside = clip.frames_thwc[0][clip.truth_thw[0]].astype(int)
        assert (inside[:, 0] > inside[:, 2] + 60).mean() > 0.9


def test_a_tracker_that_knows_the_truth_scores_full(davis_root: Path) -> None:
    clips = list(exit_clips(davis_root, 20))
    report = score_presence(_TruthTracker(clips, notices=True), iter(clips))
    assert report.reported_absent == 100
    assert report.present_lost == 0
    assert report.iou_before == report.iou_after == 1
    assert report.absent_frames == sum(int((clip.in_view_t == 0).sum()) for clip in clips)


def test_a_tracker_that_never_says_absent_scores_nothing(davis_root: Path) -> None:
    report = score_presence(_StaticTracker(), exit_clips(davis_root, 20))
    assert report.reported_absent == 0
    assert report.present_lost == 0
    assert report.iou_after < 0.5


def test_lost_frames_are_counted(davis_root: Path) -> None:
    clips = list(exit_clips(davis_root, 20))
    report = score_presence(_TruthTracker(clips, True, loses_every=2), iter(clips))
    present = [t for clip in clips for t in range(1, 20) if clip.in_view_t[t] >= 0.25]
    assert report.present_frames == len(present)
    assert report.present_lost == pytest.approx(100 * np.mean([t % 2 == 0 for t in present]))


def test_a_clip_is_a_source(davis_root: Path) -> None:
    clip = next(exit_clips(davis_root, 12))
    with ClipSource(clip) as source:
        assert source.size == clip.frames_thwc.shape[1:3]
        np.testing.assert_array_equal(source[3], clip.frames_thwc[3])
        assert source.reopen().fingerprint == source.fingerprint


def test_one_sequence_is_too_few(davis_root: Path, tmp_path: Path) -> None:
    import shutil

    shutil.rmtree(davis_root / "JPEGImages" / "disc")
    with pytest.raises(TrainingError, match="two sequences"):
        list(exit_clips(davis_root, 12))

"""Frames of video files by number equal those of a sequential decode, however they are reached."""

from __future__ import annotations

import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from video_clips import make_clip, remux, sequence, sequential

from qcore.video import FrameSource, open_source


def assert_exact(path: Path, cache_bytes: int = 0) -> FrameSource:
    """Forwards, backwards and jumping, without and with a cache, yields the oracle's pictures."""
    expected = sequential(path)
    assert expected, "the clip for the test must have frames"
    count = len(expected)
    rng = np.random.default_rng(count)
    orders = [range(count), range(count - 1, -1, -1), rng.integers(0, count, 2 * count)]
    for order in orders:
        for limit in (cache_bytes, 1 << 20):
            source = open_source(path, limit)
            assert len(source) == count
            for index in order:
                frame = source[int(index)]
                assert frame.dtype == np.uint8 and frame.shape == (*source.size, 3)
                assert np.array_equal(frame, expected[index]), f"frame {index}"
            source.close()
    return open_source(path)


CLIPS = {
    "b-frames.mp4": {},
    "no-b-frames.mp4": {"b_frames": 0},
    "one-keyframe.mp4": {"keyframe_every": 1000},
    "every-keyframe.mp4": {"keyframe_every": 1, "b_frames": 0},
    "open-gop.mp4": {"options": {"x264-params": "open-gop=1:bframes=3"}},
    "open-gop.ts": {"options": {"x264-params": "open-gop=1:bframes=3"}},
    "gradual-refresh.mkv": {"options": {"x264-params": "intra-refresh=1"}},
    "odd-size.mkv": {"size": (49, 75), "pixels": "yuv444p"},
    "b-frames-without-times.avi": {},
    "mpeg4.avi": {"codec": "mpeg4"},
    "program-stream.mpg": {"codec": "mpeg2video"},
    "windows.wmv": {"codec": "wmv2", "b_frames": 0},
    "motion-jpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p", "b_frames": 0, "keyframe_every": 1},
    "bare.h264": {"container": "h264"},
    "hidden-pictures.webm": {
        "codec": "libvpx",
        "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "arnr-strength": "3"},
    },
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"lag-in-frames": "8", "cpu-used": "8"}},
    "sound.mp4": {"with_audio": True},
    "single-frame.mp4": {"count": 1},
    "two-frames.mkv": {"count": 2},
}


@pytest.mark.parametrize("name", CLIPS)
def test_every_frame_equals_the_sequential_decode(name: str, tmp_path: Path) -> None:
    assert_exact(make_clip(tmp_path / name, **CLIPS[name]))


def test_odd_sizes_keep_their_last_row_and_column(tmp_path: Path) -> None:
    for size in ((47, 63), (1, 1), (33, 2)):
        path = make_clip(
            tmp_path / f"{size[0]}x{size[1]}.mkv", 5, size, codec="ffv1", pixels="bgr0", b_frames=0
        )
        source = assert_exact(path)
        assert source.size == size


@pytest.fixture(scope="module")
def reordered_clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    folder = tmp_path_factory.mktemp("clip")
    path = make_clip(
        folder / "clip.mp4", 50, options={"x264-params": "open-gop=1:bframes=3:b-pyramid=normal"}
    )
    return path, sequential(path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.lists(st.integers(-50, 49), min_size=1, max_size=12),
    cached_frames=st.sampled_from([0, 1, 4, 100]),
)
def test_any_order_of_access_yields_the_same_frames(
    order: list[int], cached_frames: int, reordered_clip: tuple[Path, list[np.ndarray]]
) -> None:
    path, expected = reordered_clip
    with open_source(path, cached_frames * expected[0].nbytes) as source:
        for index in order:
            assert np.array_equal(source[index], expected[index]), f"{index} of {order}"


def test_times_of_a_clip_with_a_varying_rate_are_those_of_its_frames(tmp_path: Path) -> None:
    times = [0, 40, 80, 81, 200, 1000, 1033, 1100, 2500, 2540]
    path = make_clip(tmp_path / "vfr.mkv", len(times), times=times, unit=Fraction(1, 1000))
    source = assert_exact(path)
    assert source.timestamps.dtype == np.float64
    np.testing.assert_allclose(source.timestamps, np.array(times) / 1000)
    assert source.fps == pytest.approx(9 / 2.54)


def test_frames_that_claim_the_same_time_are_still_told_apart(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 30, b_frames=0)
    path = remux(clip, tmp_path / "same-times.mkv", same_times=(9, 10))
    source = assert_exact(path)
    assert len(source) == 30 and (np.diff(source.timestamps) > 0).all()


def test_rate_and_times_of_a_steady_clip(tmp_path: Path) -> None:
    unit = Fraction(1001, 30000)
    path = make_clip(tmp_path / "ntsc.mp4", 30, unit=unit)
    source = open_source(path)
    np.testing.assert_allclose(source.timestamps, np.arange(30) * float(unit), atol=1e-6)
    assert source.fps == pytest.approx(30000 / 1001, rel=1e-4)


@pytest.mark.parametrize("shift", [-7, 12345])
def test_times_that_start_below_or_above_zero_start_at_zero_here(shift: int, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", b_frames=0)
    path = remux(clip, tmp_path / "shifted.mkv", {"avoid_negative_ts": "disabled"}, shift)
    source = assert_exact(path)
    assert len(source) == 40
    assert source.timestamps[0] == 0 and (np.diff(source.timestamps) > 0).all()


def test_frames_cut_away_by_an_edit_list_are_not_counted(tmp_path: Path) -> None:
    # Negative times become an edit list that hides the pictures before zero.
    clip = make_clip(tmp_path / "clip.mp4", 40, b_frames=0, keyframe_every=40)
    with av.open(str(clip)) as opened:
        frame_units = round(1 / 30 / opened.streams.video[0].time_base)
    options = {"use_editlist": "1", "avoid_negative_ts": "disabled"}
    path = remux(clip, tmp_path / "cut.mp4", options, -10 * frame_units)
    source = assert_exact(path)
    assert len(source) == 30
    whole = sequential(clip)
    assert np.array_equal(source[0], whole[10]) and np.array_equal(source[29], whole[39])


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotated_recordings_come_out_upright(degrees: int, mirrored: bool, tmp_path: Path) -> None:
    upright = np.zeros((64, 96, 3), np.uint8)
    upright[:32, :48], upright[:32, 48:], upright[32:, :48] = (220, 30, 30), (30, 220, 30), (30, 30, 220)
    # A player turns counter-clockwise, then mirrors, as ffmpeg does; the stored picture undoes that.
    stored = np.rot90(upright[:, ::-1] if mirrored else upright, -degrees // 90)
    path = make_clip(
        tmp_path / "phone.mp4",
        3,
        stored.shape[:2],
        frames=[np.ascontiguousarray(stored)] * 3,
        rotation=(degrees, mirrored),
        options={"crf": "1"},
    )
    source = open_source(path)
    assert source.size == (64, 96)
    for frame in source:
        assert np.abs(frame.astype(int) - upright).mean() < 6


@pytest.mark.parametrize("kept", [0.35, 0.6, 0.8, 0.97])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_truncated_file_ends_where_its_sequential_decode_ends(
    suffix: str, kept: float, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 60, (120, 160))
    whole = remux(clip, tmp_path / f"whole{suffix}", {"movflags": "faststart"} if suffix == ".mp4" else {})
    data = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: int(len(data) * kept)])
    source = assert_exact(cut)
    assert 0 < len(source) < 60


@pytest.mark.parametrize("kept", [0.35, 0.6, 0.8, 0.97])
@pytest.mark.parametrize("suffix", [".ts", ".avi"])
def test_where_truncation_tears_the_last_picture_all_others_are_exact(
    suffix: str, kept: float, tmp_path: Path
) -> None:
    # These containers hand out half a picture; what a decoder makes of the missing half is arbitrary.
    data = make_clip(tmp_path / f"whole{suffix}", 60, (120, 160)).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: int(len(data) * kept)])
    expected = sequential(cut)
    source = open_source(cut, 0)
    assert len(source) == len(expected) < 60
    different = [i for i in reversed(range(len(source))) if not np.array_equal(source[i], expected[i])]
    assert len(different) <= 1


def test_a_recording_that_starts_in_the_middle_of_a_broadcast(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.ts", 60, (120, 160), options={"x264-params": "open-gop=1:bframes=3"})
    data = whole.read_bytes()
    part = tmp_path / "part.ts"
    part.write_bytes(data[len(data) // 3 // 188 * 188 :])
    assert_exact(part)


def test_damage_in_the_middle_shifts_no_later_frame(tmp_path: Path) -> None:
    whole = remux(make_clip(tmp_path / "clip.mp4", 60, b_frames=0), tmp_path / "whole.mp4")
    clean = sequential(whole)
    with av.open(str(whole)) as opened:
        packets = [(p.pos, p.size) for p in opened.demux(opened.streams.video[0]) if p.size]
    data = bytearray(whole.read_bytes())
    for position, size in packets[24:36]:
        data[position : position + size] = bytes(size)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    source = open_source(damaged, 0)
    assert len(source) == 60
    for index in [*range(24), *range(36, 60)]:
        assert np.array_equal(source[index], clean[index])
    for index in (24, 30, 35):
        assert np.array_equal(source[index], clean[23]), "the picture before the damage stays on screen"


def test_stepping_backwards_decodes_each_group_of_pictures_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_clip(tmp_path / "clip.mp4", 48, keyframe_every=24)
    source = open_source(path)
    starts: list[int] = []
    original = source._reader.start  # type: ignore[attr-defined]
    monkeypatch.setattr(source._reader, "start", lambda tag: (starts.append(tag), original(tag)))  # type: ignore[attr-defined]
    for index in range(47, -1, -1):
        _ = source[index]
    assert len(starts) <= 3


def test_the_cache_keeps_to_its_bound(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", 40)
    one = 48 * 64 * 3
    with open_source(path, 5 * one) as source:
        for index in (39, 3, 25, 24, 23, 0, 11, 39):
            _ = source[index]
            assert source._cache.used_bytes <= 5 * one  # type: ignore[attr-defined]


def test_frames_handed_out_cannot_be_written_to(tmp_path: Path) -> None:
    source = open_source(make_clip(tmp_path / "clip.mp4", 3))
    with pytest.raises(ValueError, match="read-only"):
        source[0][:] = 0


def test_two_threads_read_through_readers_of_their_own(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", 60)
    expected = sequential(path)
    source = open_source(path, 0)
    twin = source.reopen()
    assert twin.size == source.size and twin.fingerprint == source.fingerprint and len(twin) == len(source)
    wrong: list[int] = []

    def read(reader: FrameSource, order: range) -> None:
        wrong.extend(i for i in order if not np.array_equal(reader[i], expected[i]))

    threads = [
        threading.Thread(target=read, args=(source, range(0, 60, 3))),
        threading.Thread(target=read, args=(twin, range(59, -1, -3))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    source.close()
    assert np.array_equal(twin[5], expected[5]), "closing one leaves the other open"


def test_the_fingerprint_follows_the_content_not_the_name(tmp_path: Path) -> None:
    first = make_clip(tmp_path / "a.mp4", 10)
    moved = tmp_path / "elsewhere.mp4"
    moved.write_bytes(first.read_bytes())
    other = make_clip(tmp_path / "b.mp4", 11)
    assert open_source(first).fingerprint == open_source(moved).fingerprint
    assert open_source(first).fingerprint != open_source(other).fingerprint


def test_a_real_clip_is_exact(shared_data: Path) -> None:
    path = shared_data / "clips" / "01_dog.mp4"
    wanted = [0, 288, 287, 100, 249, 248, 3, 150, 151, 40, 288, 0]
    expected = {i: frame for i, frame in enumerate(sequence(path)) if i in wanted}
    source = open_source(path, 64 << 20)
    assert len(source) == 289
    assert source.size == (720, 1280) and source.fps == pytest.approx(30000 / 1001)
    for index in wanted:
        assert np.array_equal(source[index], expected[index])

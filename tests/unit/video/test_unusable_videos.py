"""What cannot be read is refused with one sentence that names it."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from video_clips import make_clip

from qcore.video import VideoError, open_source


def refusal(path: Path) -> str:
    with pytest.raises(VideoError) as caught:
        open_source(path)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and "Traceback" not in text
    return text


def test_a_text_file_with_a_video_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("these are only words\n" * 200)
    assert "'notes.mp4' is not a video" in refusal(path)


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    assert "empty" in refusal(path)


def test_a_missing_path(tmp_path: Path) -> None:
    assert "no file or folder" in refusal(tmp_path / "gone.mp4")


def test_a_file_with_sound_only(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=8000, layout="mono")
        for index in range(8):
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            tone.sample_rate, tone.pts = 8000, index * 1024
            out.mux(stream.encode(tone))
        out.mux(stream.encode(None))
    assert "no video stream" in refusal(path)


def test_an_mp4_that_lost_its_table_of_contents(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.mp4", 60).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: len(whole) // 2])
    assert "'cut.mp4' is not a video that can be read" in refusal(path)


def test_playlists_that_would_open_other_files_are_refused(tmp_path: Path) -> None:
    make_clip(tmp_path / "private.mp4", 3)
    concat = tmp_path / "concat.mp4"
    concat.write_text("ffconcat version 1.0\nfile private.mp4\n")
    refusal(concat)
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nprivate.mp4\n#EXT-X-ENDLIST\n")
    refusal(playlist)


def test_a_header_that_promises_a_gigantic_frame(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "huge.avi", 2, codec="mjpeg", pixels="yuvj420p", b_frames=0, keyframe_every=1)
    data = bytearray(path.read_bytes())
    start = data.index(b"strf") + 12
    data[start : start + 8] = (60000).to_bytes(4, "little") * 2
    jpeg = data.index(b"\xff\xc0") + 5
    data[jpeg : jpeg + 4] = (60000).to_bytes(2, "big") * 2
    while (found := data.find(b"\xff\xc0", jpeg)) >= 0:
        jpeg = found + 5
        data[jpeg : jpeg + 4] = (60000).to_bytes(2, "big") * 2
    path.write_bytes(data)
    refusal(path)


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 6, (32, 32)).read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=30))
def test_flipped_bytes_give_frames_or_a_video_error(
    places: list[tuple[float, int]], small_clip: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(small_clip)
    for place, value in places:
        data[min(len(data) - 1, int(place * len(data)))] = value
    path = tmp_path_factory.mktemp("flipped") / "flipped.mp4"
    path.write_bytes(data)
    try:
        with open_source(path) as source:
            for frame in source:
                assert frame.shape == (*source.size, 3)
    except VideoError as error:
        assert str(error).endswith(".")


def test_a_closed_source_says_so(tmp_path: Path) -> None:
    source = open_source(make_clip(tmp_path / "clip.mp4", 3))
    source.close()
    source.close()
    with pytest.raises(VideoError, match="closed"):
        _ = source[0]


def test_a_frame_number_out_of_range_is_an_index_error(tmp_path: Path) -> None:
    source = open_source(make_clip(tmp_path / "clip.mp4", 3))
    for index in (3, -4):
        with pytest.raises(IndexError):
            _ = source[index]


def test_a_file_deleted_after_opening_cannot_be_reopened_quietly(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", 3)
    source = open_source(path)
    path.unlink()
    with pytest.raises(VideoError):
        source.reopen()

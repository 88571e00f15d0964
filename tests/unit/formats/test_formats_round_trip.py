"""Any masks survive the way through a file of each format that can be read back."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.formats import FORMATS, ExportOptions, import_into
from app.project import Change, Edit, Project
from app.project.changes import key_of
from app.project.model import FrameMask, ObjectTrack, VideoInfo
from qcore import masks

HEIGHT, WIDTH, FRAMES = 6, 7, 9
Scene = dict[tuple[int, int], np.ndarray]

pictures = st.binary(min_size=HEIGHT * WIDTH, max_size=HEIGHT * WIDTH).map(
    lambda data: np.frombuffer(data, np.uint8).reshape(HEIGHT, WIDTH) & 1
)
scenes = st.dictionaries(
    st.tuples(st.integers(0, FRAMES - 1), st.integers(1, 4)), pictures, min_size=1, max_size=12
).filter(lambda scene: any(picture.any() for picture in scene.values()))
names = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=12)


def filled(folder: Path, scene: Scene, name: str) -> Project:
    video = VideoInfo(str(folder / "v.mp4"), None, WIDTH, HEIGHT, 24.0, FRAMES, 1, "f")
    project = Project.create(folder / "a.qmsproj", video)
    tracks = [ObjectTrack(i, f"{name}{i}") for i in sorted({i for _, i in scene})]
    found = [FrameMask(f, i, masks.encode(p), score=i / 8) for (f, i), p in scene.items()]
    project.apply(Change("fill", tuple(Edit(key_of(r), None, r) for r in (*tracks, *found))), durable=False)
    return project


def through_a_file(format_id: str, scene: Scene, name: str, options: ExportOptions) -> dict[str, Scene]:
    """By object name the masks that come back."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with filled(folder, scene, name) as project:
            video = project.video
            FORMATS[format_id].export(project, folder / "out", options)
        with Project.create(folder / "b.qmsproj", video) as back:
            import_into(back, folder / "out", format_id)
            return {
                track.name: {
                    (m.frame_index, 0): masks.decode(m.rle)
                    for f in range(FRAMES)
                    for m in [back.mask(f, i)]
                    if m
                }
                for i, track in back.objects.items()
            }


@pytest.mark.parametrize("format_id", ["sav", "coco"])
@given(scene=scenes, name=names)
@settings(max_examples=25, deadline=None)
def test_masks_and_names_come_back(format_id: str, scene: Scene, name: str) -> None:
    back = through_a_file(format_id, scene, name, ExportOptions(stride=1))
    visible = sorted({i for (_, i), picture in scene.items() if picture.any()})
    assert sorted(back) == sorted(f"{name}{i}" for i in visible)
    for number in visible:
        found = back[f"{name}{number}"]
        expected = {(f, 0): p for (f, i), p in scene.items() if i == number}
        if format_id == "coco":  # an empty mask is no annotation
            expected = {key: p for key, p in expected.items() if p.any()}
        assert set(found) == set(expected)
        assert all(np.array_equal(found[key], expected[key]) for key in expected)


@given(scene=scenes)
@settings(max_examples=25, deadline=None)
def test_davis_gives_back_what_is_on_top(scene: Scene) -> None:
    back = through_a_file("davis", scene, "o", ExportOptions())
    frames = sorted({frame for frame, _ in scene})
    for frame in frames:
        free = np.ones((HEIGHT, WIDTH), np.uint8)
        for number in sorted({i for _, i in scene}):
            own = scene.get((frame, number), np.zeros((HEIGHT, WIDTH), np.uint8)) & free
            free &= 1 - own
            found = back.get(f"o{number}", {}).get((frame, 0), np.zeros((HEIGHT, WIDTH), np.uint8))
            assert np.array_equal(found, own)

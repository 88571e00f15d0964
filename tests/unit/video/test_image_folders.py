"""A folder of images is a clip in natural order, of one size, in upright RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qcore.video import VideoError, open_source
from qcore.video.folder import natural_key


def save(path: Path, rgb: np.ndarray, **options: object) -> None:
    Image.fromarray(rgb).save(path, **options)


def shade(value: int, size: tuple[int, int] = (12, 20)) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


def test_frames_come_in_natural_order_of_their_names(tmp_path: Path) -> None:
    for number in (10, 9, 100, 1, 2):
        save(tmp_path / f"img{number}.png", shade(number))
    source = open_source(tmp_path)
    assert [int(frame[0, 0, 0]) for frame in source] == [1, 2, 9, 10, 100]
    assert [source.frame_name(i) for i in range(5)] == ["img1", "img2", "img9", "img10", "img100"]
    assert source.size == (12, 20) and len(source) == 5
    np.testing.assert_allclose(source.timestamps, np.arange(5) / source.fps)


def test_natural_order_handles_zeros_and_names_without_numbers() -> None:
    names = ["b", "a10", "a2", "a02", "10", "9", "A1"]
    assert sorted(names, key=natural_key) == ["9", "10", "A1", "a02", "a2", "a10", "b"]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".jpg", ".JPEG"])
def test_every_format_is_read_as_rgb(suffix: str, tmp_path: Path) -> None:
    rgb = np.zeros((16, 24, 3), np.uint8)
    rgb[:, :12] = (200, 40, 90)
    options = {"lossless": True} if suffix == ".webp" else {"quality": 95} if "j" in suffix.lower() else {}
    save(tmp_path / f"0{suffix}", rgb, **options)
    frame = open_source(tmp_path)[0]
    tolerance = 12 if "j" in suffix.lower() else 0
    assert np.abs(frame[:, :8].astype(int) - rgb[:, :8]).max() <= tolerance


def test_other_colour_modes_become_rgb(tmp_path: Path) -> None:
    grey16 = np.full((8, 8), 32896, np.uint16)
    Image.fromarray(grey16).save(tmp_path / "0.png")
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(tmp_path / "1.png")
    Image.fromarray(np.full((8, 8, 4), (9, 8, 7, 128), np.uint8)).save(tmp_path / "2.png")
    palette = Image.fromarray(np.ones((8, 8), np.uint8), mode="P")
    palette.putpalette([0, 0, 0, 5, 150, 250])
    palette.save(tmp_path / "3.png")
    source = open_source(tmp_path)
    assert [tuple(int(v) for v in frame[0, 0]) for frame in source] == [
        (128, 128, 128),
        (77, 77, 77),
        (9, 8, 7),
        (5, 150, 250),
    ]


def test_a_photo_with_an_orientation_tag_comes_out_upright(tmp_path: Path) -> None:
    rgb = shade(0, (10, 30))
    rgb[:, :15] = 255
    image = Image.fromarray(rgb)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90 degrees clockwise to view
    image.save(tmp_path / "0.webp", exif=exif, lossless=True)
    source = open_source(tmp_path)
    assert source.size == (30, 10)
    assert np.array_equal(source[0], np.rot90(rgb, -1))


def test_other_files_and_hidden_files_are_ignored(tmp_path: Path) -> None:
    save(tmp_path / "0.png", shade(1))
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "._0.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "masks.png").mkdir()
    assert len(open_source(tmp_path)) == 1


def test_a_single_image_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    save(tmp_path / "0.png", shade(3))
    save(tmp_path / "1.png", shade(4))
    source = open_source(tmp_path / "1.png")
    assert len(source) == 1 and source[0][0, 0, 0] == 4


def test_the_cache_is_bounded_and_hands_out_the_same_frame_again(tmp_path: Path) -> None:
    for number in range(6):
        save(tmp_path / f"{number}.png", shade(number))
    one = 12 * 20 * 3
    source = open_source(tmp_path, 2 * one)
    assert source[4] is source[4]
    for number in (0, 5, 1, 4):
        assert source[number][0, 0, 0] == number
        assert source._cache.used_bytes <= 2 * one  # type: ignore[attr-defined]


def test_the_fingerprint_changes_with_names_and_content(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "0.png", shade(1))
        save(tmp_path / name / "1.png", shade(2))
    (tmp_path / "b" / "1.png").rename(tmp_path / "b" / "2.png")
    save(tmp_path / "c" / "0.png", shade(9))
    prints = {name: open_source(tmp_path / name).fingerprint for name in ("a", "b", "c")}
    assert len(set(prints.values())) == 3
    assert open_source(tmp_path / "a").reopen().fingerprint == prints["a"]


def refusal(path: Path) -> str:
    with pytest.raises(VideoError) as caught:
        open_source(path)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing")
    assert "holds no images" in refusal(tmp_path)


def test_images_of_different_sizes(tmp_path: Path) -> None:
    save(tmp_path / "0.png", shade(1))
    save(tmp_path / "1.png", shade(1, (12, 21)))
    text = refusal(tmp_path)
    assert "20 x 12" in text and "21 x 12" in text and "'1.png'" in text


def test_the_same_name_in_two_formats(tmp_path: Path) -> None:
    save(tmp_path / "0.png", shade(1))
    save(tmp_path / "0.jpg", shade(1))
    assert "different formats" in refusal(tmp_path)


def test_an_image_that_is_none(tmp_path: Path) -> None:
    save(tmp_path / "0.png", shade(1))
    (tmp_path / "1.png").write_text("not an image")
    assert "'1.png' is not a readable image" in refusal(tmp_path)


def test_an_image_cut_off_in_its_pixels_is_reported_when_reached(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(2):
        save(tmp_path / f"{number}.png", rng.integers(0, 255, (40, 40, 3), np.uint8))
    data = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(data[: len(data) // 2])
    source = open_source(tmp_path)
    assert source[0].shape == (40, 40, 3)
    with pytest.raises(VideoError, match="damaged"):
        _ = source[1]


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    assert "more pixels than can be handled" in refusal(tmp_path)


def test_frames_of_davis_equal_pillow_s_reading(shared_data: Path) -> None:
    folder = shared_data / "davis-dev" / "JPEGImages" / "dog"
    source = open_source(folder)
    files = sorted(folder.glob("*.jpg"))
    assert len(source) == len(files)
    for index in (0, len(files) - 1):
        with Image.open(files[index]) as image:
            assert np.array_equal(source[index], np.asarray(image.convert("RGB")))

"""A folder of images as a clip: one image a frame, in natural order of the names."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from qcore.video.source import (
    DEFAULT_CACHE_BYTES,
    ByteBoundedCache,
    Frame,
    FrameSource,
    VideoError,
    check_count,
    check_size,
    frozen,
)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
FOLDER_FPS = 24.0
"""Images carry no times; 24 a second is what DAVIS and SA-V are played at."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_ORIENTATION_TAG = 0x0112
_SAMPLED_BYTES = 1 << 16


class FolderSource(FrameSource):
    """Frames from image files; every header is read on opening, pixels only when asked for."""

    def __init__(
        self,
        path: Path,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        _listed: tuple[list[Path], tuple[int, int]] | None = None,
    ):
        """Open a folder, or one image as a clip of one frame.

        Raises:
            VideoError: no images, an unreadable one, or images of different sizes.
        """
        self._files, size = _listed if _listed is not None else _list_images(path)
        times = np.arange(len(self._files), dtype=np.float64) / FOLDER_FPS
        super().__init__(path, size, times, FOLDER_FPS)
        self._cache: ByteBoundedCache[Frame] = ByteBoundedCache(cache_bytes)
        self._fingerprint: str | None = None

    @property
    def files(self) -> list[Path]:
        """The image of every frame."""
        return list(self._files)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the names, the sizes in bytes, and the beginning of the first and last image."""
        if self._fingerprint is None:
            digest = hashlib.sha256(b"frames-folder-1")
            try:
                for file in self._files:
                    digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
                for file in (self._files[0], self._files[-1]):
                    with file.open("rb") as stream:
                        digest.update(stream.read(_SAMPLED_BYTES))
            except OSError as error:
                raise VideoError(f"An image of {self._path.name!r} cannot be read any more.") from error
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    @property
    def size_bytes(self) -> int:
        """Bytes of all images together."""
        return sum(file.stat().st_size for file in self._files)

    def frame_name(self, index: int) -> str:
        """The image's own name without suffix."""
        return self._files[self._checked(index)].stem

    def reopen(self, cache_bytes: int | None = None) -> FolderSource:
        """A second reader over the same list of images."""
        limit = self._cache.limit_bytes if cache_bytes is None else cache_bytes
        return FolderSource(self._path, limit, (self._files, self._size))

    def close(self) -> None:
        """Drop the cached frames."""
        super().close()
        self._cache.clear()

    def _read(self, index: int) -> Frame:
        frame = self._cache.get(index)
        if frame is None:
            frame = frozen(_load_rgb(self._files[index], self._size))
            self._cache.put(index, frame, frame.nbytes)
        return frame


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key under which ``img2`` comes before ``img10``; equal numbers fall back to the plain name."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part], name


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order of their names, unopened; hidden files are left out.

    Raises:
        VideoError: there are none, too many, or two of one name.
    """
    try:
        files = [
            file
            for file in folder.iterdir()
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
        ]
    except OSError as error:
        raise VideoError(f"The folder {folder.name!r} cannot be read.") from error
    if not files:
        raise VideoError(f"The folder {folder.name!r} holds no images (jpg, png, webp, bmp or tif).")
    check_count(folder.name, len(files))
    files.sort(key=lambda file: natural_key(file.name))
    if len({file.stem for file in files}) != len(files):
        raise VideoError(
            f"The folder {folder.name!r} holds several images of the same name in different formats."
        )
    return files


def _list_images(path: Path) -> tuple[list[Path], tuple[int, int]]:
    if path.is_file():
        return [path], _header_size(path)
    files = image_files(path)
    size = _header_size(files[0])
    for file in files[1:]:
        other = _header_size(file)
        if other != size:
            raise VideoError(
                f"The images of {path.name!r} differ in size: {files[0].name!r} is {size[1]} x {size[0]}, "
                f"{file.name!r} is {other[1]} x {other[0]}."
            )
    return files, size


def _header_size(file: Path) -> tuple[int, int]:
    """(height, width) of the upright image, from its header only."""
    try:
        with Image.open(file, formats=_FORMATS) as image:
            width, height = image.size
            turned = _tells_orientation(image) and image.getexif().get(_ORIENTATION_TAG, 1) in (5, 6, 7, 8)
    except Image.DecompressionBombError as error:
        raise VideoError(f"{file.name!r} has more pixels than can be handled.") from error
    except _IMAGE_ERRORS as error:
        raise VideoError(f"{file.name!r} is not a readable image.") from error
    size = (width, height) if turned else (height, width)
    check_size(file.name, *size)
    return size


_IMAGE_ERRORS = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    SyntaxError,  # Pillow raises it for broken PNG chunks
    ValueError,
    EOFError,
)


def _load_rgb(file: Path, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(file, formats=_FORMATS) as image:
            check_size(file.name, image.height, image.width)
            image.load()
            upright = ImageOps.exif_transpose(image) if _tells_orientation(image) else image
            rgb = _to_rgb(upright)
    except VideoError:
        raise
    except _IMAGE_ERRORS as error:
        raise VideoError(f"{file.name!r} is damaged or cannot be read.") from error
    if rgb.shape[:2] != size:
        raise VideoError(f"{file.name!r} has changed its size since the folder was opened.")
    return rgb


def _tells_orientation(image: Image.Image) -> bool:
    """Formats that cameras write and that Pillow leaves turned; PNG may hide the tag behind its pixels."""
    return image.format in ("JPEG", "WEBP")


def _to_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling.
        grey = np.clip(np.asarray(image, dtype=np.int64), 0, 65535)
        return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)

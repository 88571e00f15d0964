"""Readers of benchmark folders: clips with true masks for some or all of their frames.

Files come from outside: sizes and kinds are checked, and what does not fit is refused with one sentence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from qcore.evaluation.errors import EvaluationError
from qcore.masks import MAX_SIDE
from qcore.video import VideoError
from qcore.video.folder import image_files, natural_key

Mask = npt.NDArray[np.bool_]


class AnnotatedSequence(ABC):
    """One clip with the true masks of its objects."""

    def __init__(self, name: str, frames: Path, stems: list[str]):
        self.name = name
        self.frames = frames
        """Folder of the frames, for `qcore.video.open_source`."""
        self.frame_count = len(stems)
        self._frame_of_stem = {stem: index for index, stem in enumerate(stems)}

    @property
    @abstractmethod
    def objects(self) -> tuple[int, ...]:
        """Ids of the objects that are prompted and scored."""

    @abstractmethod
    def annotated_frames(self, object_id: int) -> tuple[int, ...]:
        """Frames with a true mask of the object (maybe an empty one), ascending."""

    @abstractmethod
    def truth(self, frame_index: int) -> dict[int, Mask]:
        """True masks, bool (H, W), of the objects that are annotated in a frame.

        Raises:
            EvaluationError: an annotation cannot be read.
        """

    counts_from_first_appearance = False
    """Whether frames before an object's first true or predicted pixel are left out of its score (SA-V)."""

    def prompt_frame(self, object_id: int, stop: int | None = None) -> int:
        """The first frame, before ``stop``, where the object is annotated and has pixels.

        Raises:
            EvaluationError: there is none.
        """
        for frame in self.annotated_frames(object_id):
            if (stop is None or frame < stop) and self.truth(frame)[object_id].any():
                return frame
        raise EvaluationError(f"Object {object_id} of {self.name!r} never appears in its annotations.")

    def _frame_indices(self, annotations: list[Path]) -> dict[int, Path]:
        try:
            return {self._frame_of_stem[file.stem]: file for file in annotations}
        except KeyError as error:
            raise EvaluationError(f"{self.name!r} has an annotation {error} without a frame.") from error


class IndexMapSequence(AnnotatedSequence):
    """DAVIS: one image a frame, pixel value = object; 255 is one object in files of only 0 and 255."""

    def __init__(self, name: str, frames: Path, annotations: Path):
        super().__init__(name, frames, [file.stem for file in _images(frames)])
        self._files = dict(sorted(self._frame_indices(_images(annotations)).items()))
        first = read_index_map(next(iter(self._files.values())))
        values = [int(v) for v in np.unique(first) if v]
        self._is_binary = values in ([255], [])
        self._objects = (1,) if self._is_binary else tuple(v for v in values if v != 255)
        self._held: tuple[int, dict[int, Mask]] | None = None

    @property
    def objects(self) -> tuple[int, ...]:
        """The objects of the first annotated frame, as the benchmark has it."""
        return self._objects

    def annotated_frames(self, object_id: int) -> tuple[int, ...]:
        """All frames with an annotation image."""
        return tuple(self._files)

    def truth(self, frame_index: int) -> dict[int, Mask]:
        """True masks of all objects in an annotated frame."""
        if self._held is None or self._held[0] != frame_index:
            labels = read_index_map(self._files[frame_index])
            if self._is_binary:
                masks = {1: labels != 0}
            else:
                masks = {object_id: labels == object_id for object_id in self._objects}
            self._held = frame_index, masks
        return self._held[1]


class ObjectFolderSequence(AnnotatedSequence):
    """SA-V val and test: a folder of binary images for every object, at 6 of the 24 frames a second."""

    counts_from_first_appearance = True

    def __init__(self, name: str, frames: Path, annotations: Path):
        super().__init__(name, frames, [file.stem for file in _images(frames)])
        self._files: dict[int, dict[int, Path]] = {}
        for folder in sorted(_folders(annotations), key=lambda f: natural_key(f.name)):
            if not folder.name.isdecimal():
                raise EvaluationError(f"{name!r} has an object folder {folder.name!r} that is not a number.")
            self._files[int(folder.name)] = dict(sorted(self._frame_indices(_images(folder)).items()))
        if not self._files:
            raise EvaluationError(f"{name!r} has no annotated objects.")

    @property
    def objects(self) -> tuple[int, ...]:
        """The numbers of the object folders."""
        return tuple(self._files)

    def annotated_frames(self, object_id: int) -> tuple[int, ...]:
        """Frames for which the object's folder holds an image."""
        return tuple(self._files[object_id])

    def truth(self, frame_index: int) -> dict[int, Mask]:
        """True masks of the objects that have an image for this frame."""
        return {
            object_id: read_index_map(files[frame_index]) != 0
            for object_id, files in self._files.items()
            if frame_index in files
        }


def davis_sequences(root: Path, names: Sequence[str] | None = None) -> list[AnnotatedSequence]:
    """DAVIS 2016 or 2017: ``JPEGImages/SEQ`` and ``Annotations/SEQ``, also with the ``480p`` level.

    Raises:
        EvaluationError: not such a folder, or an asked-for sequence is missing.
    """
    for level in ("480p", "Full-Resolution", ""):
        images, annotations = root / "JPEGImages" / level, root / "Annotations" / level
        if images.is_dir() and annotations.is_dir():
            return _pair(root, images, annotations, names, IndexMapSequence)
    raise EvaluationError(f"{str(root)!r} is not a DAVIS folder: it lacks 'JPEGImages' or 'Annotations'.")


def sav_sequences(root: Path, names: Sequence[str] | None = None) -> list[AnnotatedSequence]:
    """SA-V val or test: ``JPEGImages_24fps/VIDEO`` and ``Annotations_6fps/VIDEO/OBJECT``.

    Raises:
        EvaluationError: not such a folder, or an asked-for video is missing.
    """
    for base in (root, root / "sav_val", root / "sav_test"):
        images, annotations = base / "JPEGImages_24fps", base / "Annotations_6fps"
        if images.is_dir() and annotations.is_dir():
            return _pair(base, images, annotations, names, ObjectFolderSequence)
    raise EvaluationError(
        f"{str(root)!r} is not an SA-V folder: it lacks 'JPEGImages_24fps' or 'Annotations_6fps'."
    )


def read_index_map(file: Path) -> npt.NDArray[np.uint8]:
    """An annotation image as uint8 (H, W): palette index or grey value; any colour counts as 255.

    Raises:
        EvaluationError: it is not a readable image.
    """
    try:
        with Image.open(file, formats=("PNG",)) as image:
            if max(image.size) > MAX_SIDE:
                raise EvaluationError(f"The annotation {file.name!r} is too large.")
            if image.mode in ("P", "L"):
                return np.asarray(image, dtype=np.uint8)
            if image.mode == "1":
                return np.where(np.asarray(image), 255, 0).astype(np.uint8)
            if image.mode in ("RGB", "RGBA"):
                return np.where(np.asarray(image)[:, :, :3].any(axis=2), 255, 0).astype(np.uint8)
            values: npt.NDArray[Any] = np.asarray(image)
    except EvaluationError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise EvaluationError(f"The annotation {file.name!r} is not a readable PNG.") from error
    if values.ndim != 2 or values.min() < 0 or values.max() > 255:
        raise EvaluationError(f"The annotation {file.name!r} holds values that are no object numbers.")
    return values.astype(np.uint8)


def _pair(
    root: Path,
    images: Path,
    annotations: Path,
    names: Sequence[str] | None,
    read: Callable[[str, Path, Path], AnnotatedSequence],
) -> list[AnnotatedSequence]:
    available = {folder.name for folder in _folders(images)} & {
        folder.name for folder in _folders(annotations)
    }
    chosen = sorted(available) if names is None else list(dict.fromkeys(names))
    for name in chosen:
        if name not in available:
            raise EvaluationError(f"{str(root)!r} has no annotated sequence {name!r}.")
    if not chosen:
        raise EvaluationError(f"{str(root)!r} holds no annotated sequences.")
    return [read(name, images / name, annotations / name) for name in chosen]


def _folders(path: Path) -> list[Path]:
    return [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def _images(path: Path) -> list[Path]:
    try:
        return image_files(path)
    except VideoError as error:
        raise EvaluationError(str(error)) from error

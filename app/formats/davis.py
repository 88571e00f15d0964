"""DAVIS: one palette PNG a frame, pixel value = object; so overlaps are lost, and at most 254 objects fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from app.formats.base import ExportOptions, ExportReport, FormatError, Progress
from app.formats.output import MARKER, atomic_folder, frames_of, write_jpeg, write_json, write_png
from app.formats.reading import Reader, clean_color, clean_name, load_json
from app.formats.selection import Selection, objects_json, provenance, video_name
from app.project.imported import Imported, ImportedObject
from app.project.model import FrameMask, MaskSource, VideoInfo
from app.project.palette import davis_color, davis_palette, to_hex
from app.project.project import Project
from qcore import masks

ID = "davis"
MAX_VALUE = 254
"""Largest pixel value of an object; 255 means "do not care" in DAVIS."""
VOID = 255
_LEVEL = "480p"
_MAX_PNG_BYTES = 256 << 20


def export(project: Project, path: Path, options: ExportOptions, progress: Progress) -> ExportReport:
    """Write a project as a DAVIS dataset of one sequence; see `Format.export`."""
    chosen = Selection(project, options)
    if len(chosen.objects) > MAX_VALUE:
        raise FormatError(
            f"DAVIS holds at most {MAX_VALUE} objects, but {len(chosen.objects)} have masks: "
            "choose fewer, or export SA-V or COCO."
        )
    value_of = {track.object_id: value for value, track in enumerate(chosen.objects, start=1)}
    name, palette = video_name(project), davis_palette()
    written = lost = files = 0
    overlapping = set()
    with ExitStack() as stack:
        target = stack.enter_context(atomic_folder(path))
        source = stack.enter_context(frames_of(project, options)) if options.with_frames else None
        for frame, found in chosen.with_progress(progress):
            image = np.zeros(project.size, np.uint8)
            covered = np.zeros(project.size, np.bool_)
            for mask in reversed(found):  # the topmost last, over the others
                mask_hw = masks.decode(mask.rle) != 0
                hidden = int((mask_hw & covered).sum())
                if hidden:
                    lost += hidden
                    overlapping.add(frame)
                covered |= mask_hw
                image[mask_hw] = value_of[mask.object_id]
                written += not mask.rle.is_empty
            write_png(target / "Annotations" / _LEVEL / name / f"{frame:05d}.png", image, palette)
            files += 1
            if source is not None:
                write_jpeg(target / "JPEGImages" / _LEVEL / name / f"{frame:05d}.jpg", source[frame])
                files += 1
        if overlapping:
            files += _write_objects(chosen, target / "Annotations_objects" / name, value_of)
            chosen.add_loss(
                "overlap",
                lost,
                "{n} under another object lost in the palette images"
                f" ({len(overlapping)} frames); Annotations_objects holds every object whole",
                "pixel",
            )
        sets = target / "ImageSets" / "2017"
        sets.mkdir(parents=True)
        (sets / "val.txt").write_text(f"{name}\n", encoding="utf-8")
        objects = objects_json(project, chosen.objects)
        for entry in objects:
            entry["value"] = value_of[entry["object_id"]]
        write_json(target / MARKER, {**provenance(project), "sequence": name, "objects": objects})
    renumbered = sum(object_id != value for object_id, value in value_of.items())
    chosen.add_loss("renumbered", renumbered, "{n} numbered anew, because DAVIS counts from 1", "object")
    return ExportReport(ID, path, files + 2, len(chosen.frames), written, tuple(chosen.losses))


def _write_objects(chosen: Selection, folder: Path, value_of: Mapping[int, int]) -> int:
    count = 0
    for frame, found in chosen:
        for mask in found:
            place = folder / f"{value_of[mask.object_id]:03d}" / f"{frame:05d}.png"
            write_png(place, masks.decode(mask.rle) * np.uint8(255))
            count += 1
    return count


def read(path: Path, video: VideoInfo) -> Imported:
    """Read a folder of DAVIS PNGs (or a dataset that holds this video's sequence); see `Format.read`."""
    reader = Reader(path, "DAVIS folder")
    folder = _sequence(reader, path, video)
    names = _names(path, folder.name)
    frames: list[int] = []
    found: dict[int, dict[int, FrameMask]] = {}
    binary = True
    for frame, image in _images(reader, folder, video):
        frames.append(frame)
        for value in np.unique(image).tolist():
            binary = binary and value in (0, VOID)
            if value:
                rle = masks.encode(image == value)
                mask = FrameMask(frame, value, rle, 1.0, 1.0, MaskSource.IMPORTED)
                found.setdefault(value, {})[frame] = mask
    notes = []
    if VOID in found and not binary:
        del found[VOID]
        notes.append("Pixels of value 255 mean “do not care” and were left out.")
    objects = []
    nothing = masks.empty((video.height, video.width))
    for value, by_frame in sorted(found.items()):
        known = names.get(value, {})
        every = tuple(
            by_frame.get(f) or FrameMask(f, value, nothing, 1.0, 0.0, MaskSource.IMPORTED)
            for f in sorted(frames)
        )
        objects.append(
            ImportedObject(
                clean_name(known.get("name"), "Object 1" if binary else f"Object {value}"),
                every,
                clean_name(known.get("class"), "") or None,
                clean_color(known.get("color")) or (None if binary else to_hex(davis_color(value))),
            )
        )
    return Imported(ID, tuple(objects), tuple(notes))


def _sequence(reader: Reader, path: Path, video: VideoInfo) -> Path:
    """The folder with the video's PNGs, at or below ``path``."""
    try:
        if not path.is_dir():
            raise FormatError(f"“{path.name}” is not a folder of PNG files.")
        for root in (path / "Annotations" / _LEVEL, path / "Annotations", path / _LEVEL, path):
            if not root.is_dir():
                continue
            if any(_frame_number(child) is not None for child in root.iterdir()):
                return root
            sequences = [child for child in sorted(root.iterdir()) if child.is_dir() and _has_frames(child)]
            stem = Path(video.path).stem
            named = [child for child in sequences if child.name == stem]
            if named or len(sequences) == 1:
                return (named or sequences)[0]
            if sequences:
                raise FormatError(
                    f"“{path.name}” holds {len(sequences)} sequences and none is named “{stem}”."
                )
    except OSError as error:
        raise FormatError(
            f"“{path.name}” cannot be read: {(error.strerror or 'unknown').lower()}."
        ) from error
    raise FormatError(f"“{path.name}” holds no numbered PNG files.")


def _has_frames(folder: Path) -> bool:
    return any(_frame_number(child) is not None for child in folder.iterdir())


def _frame_number(path: Path) -> int | None:
    match = re.fullmatch(r"(\d{1,9})\.png", path.name, re.IGNORECASE)
    return int(match[1]) if match else None


def _images(reader: Reader, folder: Path, video: VideoInfo) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Frame number and pixel values of every PNG, in order."""
    numbered = {}
    for child in folder.iterdir():
        number = _frame_number(child)
        if number is not None:
            numbered[reader.frame(number, video)] = child
    for number, child in sorted(numbered.items()):
        yield number, _pixels(child, video)


def _pixels(path: Path, video: VideoInfo) -> npt.NDArray[np.uint8]:
    try:
        if path.stat().st_size > _MAX_PNG_BYTES:
            raise FormatError(f"“{path.name}” is too large.")
        with Image.open(path, formats=["PNG"]) as image:
            # Size and kind are in the header: nothing is unpacked before they are known to fit.
            if image.size != (video.width, video.height):
                raise FormatError(
                    f"“{path.name}” is {image.width} x {image.height} pixels, "
                    f"but the video is {video.width} x {video.height}."
                )
            if image.mode == "1":
                return np.asarray(image).astype(np.uint8)
            if image.mode not in ("P", "L"):
                raise FormatError(f"“{path.name}” is a picture, not a map of objects with 8 bits a pixel.")
            return np.asarray(image, np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FormatError(f"“{path.name}” is not a readable PNG file.") from error


def _names(path: Path, sequence: str) -> dict[int, Mapping[str, Any]]:
    """What an export of ours says of the objects, by pixel value; empty for other folders."""
    place = path / MARKER
    if not place.is_file():
        return {}
    value = load_json(place)
    entries = value.get("objects")
    if value.get("sequence") != sequence or not isinstance(entries, list):
        return {}
    known = [entry for entry in entries if isinstance(entry, dict)]
    return {entry["value"]: entry for entry in known if isinstance(entry.get("value"), int)}

"""Rows of the project file as records and back. Knows SQL, knows nothing of undo, caches or listeners."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from app.project.changes import Change, Edit, Key, Kind, Record, key_of
from app.project.lanes import SOURCES, MaskFacts, source_code
from app.project.model import FrameMask, LabelClass, ObjectTrack, VideoInfo
from app.project.state import State
from qcore.masks import MaskError, Rle, from_coco
from qcore.tracking.types import Prompt

MAX_FRAMES = 5_000_000
MAX_OBJECTS = 4096
MAX_CELLS = 400_000_000
"""Objects times frames, so that a file from elsewhere cannot ask for all memory."""
MAX_NAME_LENGTH = 1000
MAX_SIDE = 1 << 15
_COLOR = re.compile(r"#[0-9a-fA-F]{6}\Z")


class BadRecord(ValueError):  # noqa: N818 - a reason, turned into a ProjectError by the caller
    """A row that no version of this program has written."""


def write(connection: sqlite3.Connection, edits: Iterable[Edit]) -> None:
    """Carry out edits inside the open transaction."""
    for edit in edits:
        _WRITERS[edit.key.kind](connection, edit.key, edit.after)


def _write_class(connection: sqlite3.Connection, key: Key, record: Any) -> None:
    if record is None:
        connection.execute("DELETE FROM classes WHERE class_id = ?", (key.number,))
    else:
        connection.execute(
            "INSERT OR REPLACE INTO classes VALUES (?, ?, ?)", (record.class_id, record.name, record.color)
        )


def _write_object(connection: sqlite3.Connection, key: Key, record: Any) -> None:
    if record is None:
        connection.execute("DELETE FROM objects WHERE object_id = ?", (key.number,))
        return
    connection.execute(
        "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            record.object_id,
            record.name,
            record.class_id,
            record.color,
            int(record.visible),
            int(record.locked),
            record.z_order,
        ),
    )


def _write_prompt(connection: sqlite3.Connection, key: Key, record: Any) -> None:
    if record is None:
        connection.execute("DELETE FROM prompts WHERE object_id = ? AND frame = ?", key[1:])
        return
    data = json.dumps({"points": record.points_xy, "labels": record.labels, "box": record.box_xyxy})
    mask = None if record.mask is None else record.mask.counts
    connection.execute("INSERT OR REPLACE INTO prompts VALUES (?, ?, ?, ?)", (*key[1:], data, mask))


def _write_mask(connection: sqlite3.Connection, key: Key, record: Any) -> None:
    if record is None:
        connection.execute("DELETE FROM masks WHERE object_id = ? AND frame = ?", key[1:])
        return
    connection.execute(
        "INSERT OR REPLACE INTO masks VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *key[1:],
            record.rle.counts,
            record.rle.area,
            record.score,
            record.presence,
            source_code(record.source),
            int(record.reviewed),
        ),
    )


_WRITERS = {
    Kind.CLASS: _write_class,
    Kind.OBJECT: _write_object,
    Kind.PROMPT: _write_prompt,
    Kind.MASK: _write_mask,
}


def write_meta(connection: sqlite3.Connection, key: str, value: str) -> None:
    """Set one entry of the meta table."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def read_meta(connection: sqlite3.Connection) -> dict[str, str]:
    """The whole meta table."""
    return {str(k): str(v) for k, v in connection.execute("SELECT key, value FROM meta LIMIT 10000")}


def write_video(
    connection: sqlite3.Connection, video: VideoInfo, timestamps_s: npt.NDArray[np.float64] | None
) -> None:
    """Set the video; ``timestamps_s`` are seconds, one per frame."""
    blob = None if timestamps_s is None else np.asarray(timestamps_s, "<f8").tobytes()
    connection.execute(
        "INSERT OR REPLACE INTO video VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            video.path,
            video.relative_path,
            video.width,
            video.height,
            video.fps,
            video.frame_count,
            video.size_bytes,
            video.fingerprint,
            blob,
        ),
    )


def read_video(connection: sqlite3.Connection) -> tuple[VideoInfo, npt.NDArray[np.float64] | None]:
    """The video and its frames' times in seconds, where known."""
    rows = connection.execute("SELECT * FROM video LIMIT 2").fetchall()
    if len(rows) != 1:
        raise BadRecord("no video")
    _, path, relative, width, height, fps, count, size, fingerprint, blob = rows[0]
    video = VideoInfo(
        _text(path, 1 << 15),
        None if relative is None else _text(relative, 1 << 15),
        _whole(width, 1, MAX_SIDE),
        _whole(height, 1, MAX_SIDE),
        _number(fps, 0.0, 1e6),
        _whole(count, 1, MAX_FRAMES),
        _whole(size, 0, 1 << 62),
        _text(fingerprint, 1000),
    )
    if blob is None:
        return video, None
    if not isinstance(blob, bytes) or len(blob) != 8 * video.frame_count:
        raise BadRecord("timestamps")
    return video, np.frombuffer(blob, "<f8").astype(np.float64)


def read_classes(connection: sqlite3.Connection) -> Iterator[LabelClass]:
    """All classes by id."""
    for class_id, name, color in connection.execute("SELECT * FROM classes ORDER BY class_id"):
        yield LabelClass(_whole(class_id, 1, 1 << 31), _text(name), _color(color))


def read_objects(connection: sqlite3.Connection) -> Iterator[ObjectTrack]:
    """All objects by id."""
    rows = connection.execute(
        "SELECT * FROM objects ORDER BY object_id LIMIT ?", (MAX_OBJECTS + 1,)
    ).fetchall()
    if len(rows) > MAX_OBJECTS:
        raise BadRecord("too many objects")
    for object_id, name, class_id, color, visible, locked, z_order in rows:
        yield ObjectTrack(
            _whole(object_id, 1, 1 << 31),
            _text(name),
            None if class_id is None else _whole(class_id, 1, 1 << 31),
            _color(color),
            bool(_whole(visible, 0, 1)),
            bool(_whole(locked, 0, 1)),
            _whole(z_order, -(1 << 31), 1 << 31),
        )


def read_prompts(connection: sqlite3.Connection, video: VideoInfo) -> Iterator[Prompt]:
    """All prompts by object and frame."""
    for object_id, frame, data, mask in connection.execute("SELECT * FROM prompts ORDER BY object_id, frame"):
        try:
            value = json.loads(_text(data, 1 << 22))
            points = tuple((float(x), float(y)) for x, y in value["points"])
            labels = tuple(_whole(label, 0, 1) for label in value["labels"])
            box = value["box"]
            if box is not None:
                x0, y0, x1, y1 = (float(v) for v in box)
                box = (x0, y0, x1, y1)
            numbers = [v for point in points for v in point] + list(box or ())
            if not all(math.isfinite(v) for v in numbers):
                raise BadRecord("a prompt's coordinates")
            rle = None if mask is None else rle_from_row(mask, video)
            yield Prompt(_frame(frame, video), _whole(object_id, 1, 1 << 31), points, labels, box, rle)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BadRecord("a prompt") from error


def read_facts(connection: sqlite3.Connection, video: VideoInfo) -> Iterator[tuple[int, MaskFacts]]:
    """Of every mask its object's id and its facts."""
    rows = connection.execute("SELECT object_id, frame, source, reviewed, score, presence, area FROM masks")
    for object_id, frame, source, reviewed, score, presence, area in rows:
        facts = MaskFacts(
            _frame(frame, video),
            _whole(source, 1, len(SOURCES)),
            bool(_whole(reviewed, 0, 1)),
            _number(score, 0.0, 1.0),
            _number(presence, 0.0, 1.0),
            _whole(area, 0, video.width * video.height),
        )
        yield _whole(object_id, 1, 1 << 31), facts


def read_state(connection: sqlite3.Connection, video: VideoInfo) -> State:
    """Everything light, with every record checked."""
    state = State(video.frame_count)
    records: list[Record] = [*read_classes(connection), *read_objects(connection)]
    state.update(Change("", tuple(Edit(key_of(record), None, record) for record in records)))
    if len(state.objects) * video.frame_count > MAX_CELLS:
        raise BadRecord("too many objects times frames")
    for prompt in read_prompts(connection, video):
        if prompt.object_id not in state.objects:
            raise BadRecord("a prompt without object")
        state.update(Change("", (Edit(key_of(prompt), None, prompt),)))
    for object_id, facts in read_facts(connection, video):
        if object_id not in state.objects:
            raise BadRecord("a mask without object")
        state.index(object_id).note(facts)
    return state


_MASK_COLUMNS = "object_id, frame, counts, score, presence, source, reviewed"


def read_mask(
    connection: sqlite3.Connection, video: VideoInfo, object_id: int, frame_index: int
) -> FrameMask | None:
    """One mask, checked."""
    row = connection.execute(
        f"SELECT {_MASK_COLUMNS} FROM masks WHERE object_id = ? AND frame = ?", (object_id, frame_index)
    ).fetchone()
    return None if row is None else _mask_from_row(row, video)


def read_masks_of_frame(
    connection: sqlite3.Connection, video: VideoInfo, frame_index: int
) -> list[FrameMask]:
    """All masks of a frame by object id, checked."""
    rows = connection.execute(
        f"SELECT {_MASK_COLUMNS} FROM masks WHERE frame = ? ORDER BY object_id", (frame_index,)
    )
    return [_mask_from_row(row, video) for row in rows]


def _mask_from_row(row: Sequence[Any], video: VideoInfo) -> FrameMask:
    object_id, frame, counts, score, presence, source, reviewed = row
    return FrameMask(
        _frame(frame, video),
        _whole(object_id, 1, 1 << 31),
        rle_from_row(counts, video),
        _number(score, 0.0, 1.0),
        _number(presence, 0.0, 1.0),
        SOURCES[_whole(source, 1, len(SOURCES)) - 1],
        bool(_whole(reviewed, 0, 1)),
    )


def rle_from_row(counts: object, video: VideoInfo) -> Rle:
    """Compressed runs from the file, checked to fill the video's frame exactly."""
    try:
        return from_coco({"size": (video.height, video.width), "counts": counts})
    except MaskError as error:
        raise BadRecord("a mask") from error


def _frame(value: object, video: VideoInfo) -> int:
    return _whole(value, 0, video.frame_count - 1)


def _whole(value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadRecord("a whole number")
    return value


def _number(value: object, low: float, high: float) -> float:
    if not isinstance(value, int | float) or not low <= value <= high:
        raise BadRecord("a number")
    return float(value)


def _text(value: object, limit: int = MAX_NAME_LENGTH) -> str:
    if not isinstance(value, str) or len(value) > limit:
        raise BadRecord("a text")
    return value


def _color(value: object) -> str:
    text = _text(value, 7)
    if not _COLOR.match(text):
        raise BadRecord("a colour")
    return text

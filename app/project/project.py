"""`Project`: the open document, the one way to change it, and who is told.

The file is the truth for masks, which are fetched on demand; everything light is also held in memory. Every
change is on the disk when `apply` returns; results of a propagation may wait up to `BATCH_SECONDS` for each
other. When the disk refuses, memory goes back to what the disk holds.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from app.project import schema, store
from app.project.changes import Change, Key, Kind, make_change
from app.project.errors import ProjectError, explain
from app.project.lanes import LaneArrays, MaskIndex
from app.project.model import FrameMask, LabelClass, ObjectTrack, Provenance, VideoInfo
from app.project.records import check_record, check_video
from qcore import __version__
from qcore.tracking.types import Prompt

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_NOTHING = Change("")

BATCH_SECONDS = 0.4
"""How long results that may wait are collected before they are written to the disk."""

Listener = Callable[[Change], None]


class Project:
    """One open project file. Usable from several threads; listeners are called in the thread that applies."""

    def __init__(self, path: Path, connection: sqlite3.Connection, read_only: bool) -> None:
        """Use `create` or `open`."""
        self._path = path
        self._connection = connection
        self._read_only = read_only
        self._closed = False
        self._lock = threading.RLock()
        self._listeners: list[Listener] = []
        self._pending: list[Change] = []
        self._timer: threading.Timer | None = None
        self._undelivered: tuple[Change, ProjectError] | None = None
        self._saved_at = time.time()
        self._meta = store.read_meta(connection)
        self._video, self._timestamps = store.read_video(connection)
        self._state = store.read_state(connection, self._video)

    # -- opening and closing ---------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, path: Path | str, video: VideoInfo, timestamps_s: npt.NDArray[np.float64] | None = None
    ) -> Self:
        """Make a new project file and open it.

        Args:
            path: where; must not exist.
            video: what it annotates, see `video_link.describe_video`.
            timestamps_s: (frames,) presentation times in seconds, for exports that hold them.

        Raises:
            ProjectError: the file exists or cannot be written.
        """
        path = Path(path).absolute()
        check_video(video)
        times = None if timestamps_s is None else np.asarray(timestamps_s, np.float64)
        if times is not None and times.shape != (video.frame_count,):
            raise ValueError(f"{times.shape} timestamps for {video.frame_count} frames")

        def fill(connection: sqlite3.Connection) -> None:
            store.write_video(connection, video, times)
            store.write_meta(connection, "created_with", __version__)
            store.write_meta(connection, "created_at", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

        schema.build(path, fill)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path | str, read_only: bool = False) -> Self:
        """Open a project file, checking all of it first; a refused file is left as it was.

        Raises:
            ProjectError: not a project, damaged, made by a newer version, or open elsewhere.
        """
        path = Path(path).absolute()
        connection = schema.connect(path, read_only)
        try:
            project = cls(path, connection, read_only)
            if not read_only:
                schema.prepare_writing(connection)
            return project
        except store.BadRecord as error:
            connection.close()
            _log.warning("project %s: bad record: %s", path, error)
            raise ProjectError(f"“{path.name}” is damaged.") from error
        except sqlite3.Error as error:
            connection.close()
            raise explain(error, path) from error

    def close(self) -> None:
        """Write what waits and let go of the file. Closing twice is fine.

        Raises:
            ProjectError: what waited could not be written; the file is closed all the same.
        """
        if self._closed:
            return
        try:
            self.flush()
        finally:
            with self._lock:
                self._stop_timer()
                self._closed = True
                self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- reading ---------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The project file."""
        return self._path

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self._path.stem

    @property
    def is_closed(self) -> bool:
        """True after `close`."""
        return self._closed

    @property
    def read_only(self) -> bool:
        """True when it was opened for reading only."""
        return self._read_only

    @property
    def saved_at(self) -> float:
        """When a change last reached the disk (or the file was opened), seconds since the epoch."""
        return self._saved_at

    @property
    def video(self) -> VideoInfo:
        """The annotated video."""
        return self._video

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of frames and masks in pixels."""
        return self._video.height, self._video.width

    @property
    def timestamps_s(self) -> npt.NDArray[np.float64]:
        """(frames,) presentation times in seconds; from the frame rate where the real ones are unknown."""
        if self._timestamps is not None:
            return self._timestamps.copy()
        return np.arange(self._video.frame_count) / (self._video.fps or 1.0)

    @property
    def classes(self) -> Mapping[int, LabelClass]:
        """Classes by id, ascending."""
        return MappingProxyType(self._state.classes)

    @property
    def objects(self) -> Mapping[int, ObjectTrack]:
        """Objects by id, topmost first."""
        return MappingProxyType(self._state.objects)

    @property
    def next_object_id(self) -> int:
        """An id that no object of this project ever had."""
        return max([self._number("last_object_id"), *self._state.objects]) + 1

    @property
    def next_class_id(self) -> int:
        """An id that no class of this project ever had."""
        return max([self._number("last_class_id"), *self._state.classes]) + 1

    def prompt(self, frame_index: int, object_id: int) -> Prompt | None:
        """What the user said about an object on a frame."""
        with self._lock:
            return self._state.prompts(object_id).get(frame_index)

    def prompts(self, object_id: int) -> list[Prompt]:
        """An object's prompts by frame."""
        with self._lock:
            return [prompt for _, prompt in sorted(self._state.prompts(object_id).items())]

    def prompts_on(self, frame_index: int) -> list[Prompt]:
        """All prompts of a frame, in the objects' order."""
        found = (self.prompt(frame_index, object_id) for object_id in self.objects)
        return [prompt for prompt in found if prompt is not None]

    def mask(self, frame_index: int, object_id: int) -> FrameMask | None:
        """One mask, read from the file unless it was used lately; None where there is none."""
        with self._lock:
            if object_id not in self._state.objects or not 0 <= frame_index < self._video.frame_count:
                return None
            if not self._state.index(object_id).has_mask(frame_index):
                return None
            key = Key(Kind.MASK, object_id, frame_index)
            mask = self._state.cache.get(key)
            if mask is None:
                read = partial(store.read_mask, self._connection, self._video, object_id, frame_index)
                mask = self._read(read)
                if mask is not None:
                    self._state.cache.put(key, mask)
            return mask

    def masks_on(self, frame_index: int) -> list[FrameMask]:
        """All masks of a frame, in the objects' order (topmost first)."""
        found = (self.mask(frame_index, object_id) for object_id in self.objects)
        return [mask for mask in found if mask is not None]

    def iter_masks(self, frames: Iterable[int] | None = None) -> Iterator[tuple[int, list[FrameMask]]]:
        """Frame by frame all masks in the objects' order, past the cache: for exports.

        Args:
            frames: which frames and in which order; all frames with a mask by default.
        """
        for frame_index in self.annotated_frames().tolist() if frames is None else frames:
            with self._lock:
                read = partial(store.read_masks_of_frame, self._connection, self._video, frame_index)
                found = self._read(read)
                order = {object_id: rank for rank, object_id in enumerate(self._state.objects)}
            yield frame_index, sorted(found, key=partial(_rank, order))

    def frames_with_mask(self, object_id: int) -> npt.NDArray[np.int64]:
        """Frames with a mask of the object (empty or not), ascending."""
        return self.index(object_id).frames()

    def annotated_frames(self) -> npt.NDArray[np.int64]:
        """Frames with any mask, ascending."""
        with self._lock:
            return self._state.annotated_frames()

    def index(self, object_id: int) -> MaskIndex:
        """The light facts about an object's masks; look, don't write."""
        return self._state.index(object_id)

    def lane(self, object_id: int) -> LaneArrays:
        """Arrays for the timeline."""
        with self._lock:
            return self._state.index(object_id).lane(object_id)

    def _read(self, fetch: Callable[[], _T]) -> _T:
        if self._closed:
            raise ProjectError(f"“{self._path.name}” is closed.")
        try:
            return fetch()
        except store.BadRecord as error:
            raise ProjectError(f"A mask in “{self._path.name}” is damaged.") from error
        except sqlite3.Error as error:
            raise explain(error, self._path) from error

    # -- changing --------------------------------------------------------------------------------------------

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have ``listener(change)`` called after every change; returns the function that ends it."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe

    def apply(self, change: Change, durable: bool = True) -> None:
        """Carry out a change.

        Args:
            change: from `edits`, or the inverse of one.
            durable: on the disk before this returns. False lets it wait up to `BATCH_SECONDS` (propagation).

        Raises:
            ProjectError: it could not be written. Then nothing of it happened; of results that were still
                waiting to be written, listeners were told the inverse.
        """
        self._deliver_failure()
        if change.is_empty:
            return
        for edit in change.edits:
            check_record(edit.after, self._video)
        if durable:
            # What waits is written on its own first, so that a failure is blamed on the right change.
            self.flush()
        with self._lock:
            self._check_writable()
            undone, failure = self._write(change, durable)
        if failure is not None:
            self._notify(undone)
            raise failure
        self._notify(change)

    def flush(self) -> None:
        """Write what waits, now.

        Raises:
            ProjectError: it could not be written and was taken back.
        """
        self._deliver_failure()
        with self._lock:
            undone, failure = self._commit_pending()
        if failure is not None:
            self._notify(undone)
            raise failure

    @property
    def provenance(self) -> tuple[Provenance, ...]:
        """Every model and setting that tracked in this project, the latest last."""
        try:
            return tuple(Provenance(**run) for run in json.loads(self._meta.get("provenance", "[]")))
        except (ValueError, TypeError):
            return ()

    def record_provenance(self, run: Provenance) -> None:
        """Note what makes masks from now on; repeated runs are kept once."""
        before = self.provenance
        if before and before[-1] == run:
            return
        runs = [*(known for known in before if known != run), run]
        self.set_meta("provenance", json.dumps([asdict(known) for known in runs]))

    def meta(self, key: str, default: str = "") -> str:
        """A small setting kept with the project, e.g. the frame shown last."""
        return self._meta.get(key, default)

    def set_meta(self, key: str, value: str) -> None:
        """Keep a small setting; outside undo.

        Raises:
            ProjectError: it could not be written.
        """
        self._write_outside_undo(partial(store.write_meta, self._connection, key, value))
        self._meta[key] = value

    def relink(self, video: VideoInfo, timestamps_s: npt.NDArray[np.float64] | None = None) -> None:
        """Annotate ``video`` from now on: the same one in another place, or a changed one.

        Raises:
            ProjectError: its size differs, or it ends before the last mask; or it could not be written.
        """
        check_video(video)
        old, name = self._video, Path(video.path).name
        if (video.width, video.height) != (old.width, old.height):
            raise ProjectError(
                f"The masks are {old.width} x {old.height} pixels, but “{name}” is "
                f"{video.width} x {video.height}."
            )
        last = self._state.last_used_frame()
        if last >= video.frame_count:
            raise ProjectError(
                f"Frame {last} is annotated, but “{name}” has only {video.frame_count} frames."
            )
        times = None if timestamps_s is None else np.asarray(timestamps_s, np.float64)
        if times is None and video.frame_count == old.frame_count:
            times = self._timestamps
        self._write_outside_undo(partial(store.write_video, self._connection, video, times))
        with self._lock:
            self._video, self._timestamps = video, times
            if video.frame_count != old.frame_count:
                self._state.resize(video.frame_count)

    # -- inside ----------------------------------------------------------------------------------------------

    def _number(self, key: str) -> int:
        text = self._meta.get(key, "0")
        return int(text) if text.isdecimal() and len(text) < 12 else 0

    def _check_writable(self) -> None:
        if self._closed:
            raise ProjectError(f"“{self._path.name}” is closed.")
        if self._read_only:
            raise ProjectError(f"“{self._path.name}” is open for reading only.")

    def _write_outside_undo(self, action: Callable[[], None]) -> None:
        self.flush()
        with self._lock:
            self._check_writable()
            try:
                action()
            except sqlite3.Error as error:
                raise explain(error, self._path, saving=True) from error
            self._saved_at = time.time()

    def _write(self, change: Change, durable: bool) -> tuple[Change, ProjectError | None]:
        """Into the file, then into memory; on failure into neither, with what else that took back."""
        last_ids = self._last_ids(change)
        try:
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            store.write(self._connection, change.edits)
            for key, value in last_ids.items():
                store.write_meta(self._connection, key, value)
            if durable:
                self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            return self._roll_back(), explain(error, self._path, saving=True)
        self._meta.update(last_ids)
        self._state.update(change)
        if durable:
            self._saved_at = time.time()
            self._pending.clear()
        else:
            self._wait(change)
        return _NOTHING, None

    def _last_ids(self, change: Change) -> dict[str, str]:
        found = {}
        for kind, key in ((Kind.OBJECT, "last_object_id"), (Kind.CLASS, "last_class_id")):
            highest = max((e.key.number for e in change.edits if e.key.kind is kind), default=0)
            if highest > self._number(key):
                found[key] = str(highest)
        return found

    def _wait(self, change: Change) -> None:
        if not self._pending:
            self._timer = threading.Timer(BATCH_SECONDS, self._on_timer)
            self._timer.daemon = True
            self._timer.start()
        self._pending.append(change)

    def _on_timer(self) -> None:
        with self._lock:
            if self._closed:
                return
            undone, failure = self._commit_pending()
            if failure is not None:
                # Listeners belong to another thread: they hear of it at that thread's next call.
                self._undelivered = (undone, failure)

    def _commit_pending(self) -> tuple[Change, ProjectError | None]:
        if not self._pending:
            return _NOTHING, None
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            return self._roll_back(), explain(error, self._path, saving=True)
        self._saved_at = time.time()
        self._pending.clear()
        self._stop_timer()
        return _NOTHING, None

    def _roll_back(self) -> Change:
        """Take file and memory back to the last commit; returns what that changed in memory."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        edits = [edit for change in reversed(self._pending) for edit in change.inverted().edits]
        undone = make_change("Could not be saved", edits)
        self._pending.clear()
        self._stop_timer()
        self._state.update(undone)
        return undone

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _deliver_failure(self) -> None:
        with self._lock:
            undelivered, self._undelivered = self._undelivered, None
        if undelivered is not None:
            self._notify(undelivered[0])
            raise undelivered[1]

    def _notify(self, change: Change) -> None:
        if change.is_empty:
            return
        for listener in tuple(self._listeners):
            listener(change)


def _rank(order: Mapping[int, int], mask: FrameMask) -> int:
    return order.get(mask.object_id, 0)

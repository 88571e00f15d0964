"""Encoded frames on disk, so that a later session on the same video needs no encoder; off unless asked for.

One safetensors file a frame, in a folder named by everything the features depend on: video, model, input size
and arithmetic. Files are written beside their place and moved into it; what cannot be read, or is not what it
should be, counts as absent and goes. The oldest-used files leave when the budget in bytes is exceeded.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from qcore import __version__
from qcore.tracking.feature_cache import EncodedFrame

log = logging.getLogger(__name__)

_FORMAT = "qminisam2-features-2"
_FOLDER = re.compile(r"[0-9a-f]{40}")
_FILE = re.compile(r"[0-9]{7,}\.(safetensors|[0-9]+\.part)")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_ROOM = 0.9
"""Share of the budget that an eviction leaves, so that not every frame needs one."""
_STALE_S = 3600.0
"""Age of a half-written file that nobody writes any more."""


def feature_store_folder() -> Path:
    """Where encoded frames are kept by default."""
    return Path(platformdirs.user_cache_dir("qminisam2", False)) / "features"


def feature_key(video_fingerprint: str, model_sha256: str, image_size: int, arithmetic: str) -> str:
    """Name of the folder for a video's features: 40 hex digits.

    Args:
        video_fingerprint: `FrameSource.fingerprint`.
        model_sha256: of the model's file.
        image_size: the model's input side in pixels.
        arithmetic: what the encoder computes in, e.g. ``int8 + fp32`` (`KernelReport.arithmetic`), with the
            device.
    """
    facts = "\0".join((_FORMAT, __version__, video_fingerprint, model_sha256, str(image_size), arithmetic))
    return hashlib.sha256(facts.encode()).hexdigest()[:40]


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    size_bytes: int
    used: float


class FeatureStore:
    """The encoded frames of one video and model on disk, under a budget shared with all others there.

    Safe to use from several threads; processes may share a folder. It never raises: a full or read-only disk
    costs speed, not work.

    Args:
        key: from `feature_key`.
        budget_bytes: for everything below ``root``.
        root: folder of all features; `feature_store_folder` by default.

    Raises:
        ValueError: the key is not one.
    """

    def __init__(self, key: str, budget_bytes: int, root: Path | None = None) -> None:
        if _FOLDER.fullmatch(key) is None:
            raise ValueError("A feature store's key has 40 hex digits.")
        self.root = root or feature_store_folder()
        self.budget_bytes = budget_bytes
        self._key = key
        self._folder = self.root / key
        self._lock = threading.Lock()
        self._bytes = sum(file.size_bytes for file in self._files())
        self._writes = True

    @property
    def size_bytes(self) -> int:
        """Bytes below the root, as far as this store knows."""
        return self._bytes

    def get(
        self, frame_index: int, shapes: Sequence[tuple[int, ...]], picture_side: int | None = None
    ) -> EncodedFrame | None:
        """A frame's features, marked as used now; None when they are not here.

        Args:
            frame_index: of the video.
            shapes: (1, C, H, W) of every level; features of other shapes are damaged.
            picture_side: of the picture kept with them, in pixels; None for features without one. A frame
                that was kept otherwise is of no use and goes.
        """
        path = self._path(frame_index)
        try:
            picture_bytes = 3 * (picture_side or 0) ** 2
            if path.stat().st_size > sum(4 * torch.Size(s).numel() for s in shapes) + picture_bytes + 65536:
                raise ValueError("too large")
            frame = _read(path, self._tag(frame_index), shapes, picture_side)
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, SafetensorError) as error:
            log.info("dropping %s: %s", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        return frame

    def put(self, frame_index: int, frame: EncodedFrame) -> None:
        """Keep a frame's features and let the oldest-used ones go until the budget holds again."""
        if not self._writes or frame.size_bytes > self.budget_bytes * _ROOM:
            return
        path = self._path(frame_index)
        part = path.with_suffix(f".{os.getpid()}{threading.get_ident()}.part")
        tensors = {f"level{i}": level.contiguous().cpu() for i, level in enumerate(frame.levels)}
        if frame.picture_hw3 is not None:
            tensors["picture"] = frame.picture_hw3.contiguous().cpu()
        data = save(tensors, {"frame": self._tag(frame_index)})
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                part.write_bytes(data)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            log.warning("encoded frames are not kept on disk any more: %s", error)
            self._writes = False
            return
        with self._lock:
            self._bytes += len(data)
            if self._bytes > self.budget_bytes:
                self._bytes = self._evict()

    def clear(self) -> None:
        """Remove the features of every video."""
        with self._lock:
            for file in self._files():
                self._remove(file.path)
            self._bytes = 0

    def _path(self, frame_index: int) -> Path:
        return self._folder / f"{frame_index:07d}.safetensors"

    def _tag(self, frame_index: int) -> str:
        return f"{_FORMAT} {self._key} {frame_index}"

    def _evict(self) -> int:
        files = sorted(self._files(), key=lambda file: file.used)
        total = sum(file.size_bytes for file in files)
        now = time.time()
        for file in files:
            is_stale = file.path.suffix == ".part" and now - file.used > _STALE_S
            if total > self.budget_bytes * _ROOM or is_stale:
                self._remove(file.path)
                total -= file.size_bytes
        return total

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # goes only when it is empty

    def _files(self) -> list[_File]:
        """Files that a store wrote; whatever else lies there is none of its business."""
        found: list[_File] = []
        with contextlib.suppress(OSError), os.scandir(self.root) as folders:
            for folder in folders:
                if _FOLDER.fullmatch(folder.name) is None or not folder.is_dir(follow_symlinks=False):
                    continue
                with contextlib.suppress(OSError), os.scandir(folder) as entries:
                    for entry in entries:
                        if _FILE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                            status = entry.stat(follow_symlinks=False)
                            found.append(_File(Path(entry.path), status.st_size, status.st_mtime))
        return found


def _read(path: Path, tag: str, shapes: Sequence[tuple[int, ...]], picture_side: int | None) -> EncodedFrame:
    with safe_open(path, framework="pt") as file:
        if (file.metadata() or {}).get("frame") != tag:
            raise ValueError("another frame's features")
        names = [f"level{i}" for i in range(len(shapes))]
        if sorted(file.keys()) != names + ["picture"] * (picture_side is not None):
            raise ValueError("other tensors")
        levels = tuple(file.get_tensor(name) for name in names)
        picture_hw3 = None if picture_side is None else file.get_tensor("picture")
    for level, shape in zip(levels, shapes, strict=True):
        if level.shape != shape or level.dtype not in _DTYPES or not torch.isfinite(level).all():
            raise ValueError("not features of this model")
    if picture_hw3 is not None and (
        picture_hw3.shape != (picture_side, picture_side, 3) or picture_hw3.dtype is not torch.uint8
    ):
        raise ValueError("not a picture of this model's size")
    return EncodedFrame(levels, picture_hw3)

"""Which packet of a video file holds which frame: built once by demuxing, shared by all readers of the file.

A picture is identified by the ordinal of its packet in the file ("tag"), never by "the n-th frame
after a seek": containers seek to approximate places, decoders reorder, swallow and repeat.
"""

from __future__ import annotations

import logging
import zlib
from bisect import bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt

from qcore.video.source import VideoError, check_count, check_size

log = logging.getLogger(__name__)

CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,mxf,ivf,h264,hevc,m4v,mpegvideo,mjpeg,obu,dv"
)
"""Containers read. Playlists and whatever else names further files or addresses are left out on purpose."""

_TRUSTED_TIMES = ("mov", "matroska", "mpegts")
"""Their packets carry true presentation times; in other containers B-frames make them guesses."""
_NO_REORDERING = frozenset(
    {"mjpeg", "png", "rawvideo", "ffv1", "huffyuv", "prores", "dnxhd", "dvvideo", "gif"}
)
_DEFAULT_RATE = 25.0


class Identity(Enum):
    """How a packet met again after a seek is recognised."""

    BY_TIME = "presentation time"
    BY_CONTENT = "byte offset in the file, and checksum"
    BY_COUNT = "not at all: always read from the start and count the pictures"


@dataclass(frozen=True)
class PacketIndex:
    """Packets in file order ("tags" 0..p-1) and frames in presentation order (0..n-1)."""

    identity: Identity
    tag_of_key: dict[tuple[int, int], int]
    """(presentation time, 0) or (byte offset, checksum) of a packet -> its tag."""
    seek_times: list[int | None]
    """(p) time to seek to for a packet, in the stream's own unit."""
    keyframes: list[int]
    """Tags at which decoding can start, ascending."""
    rank: npt.NDArray[np.int64]
    """(p) place of each packet's picture in presentation order, shown or not; -1 where it yields none."""
    frame_tags: npt.NDArray[np.int64]
    """(n) tag of each frame."""
    frame_of_tag: npt.NDArray[np.int64]
    """(p) frame of each tag; -1 for pictures that are not shown."""
    timestamps: npt.NDArray[np.float64]
    """(n) seconds from the first frame."""
    fps: float

    def start_tags(self, frame: int, useless: Collection[int] = ()) -> list[int]:
        """Tags from which decoding yields ``frame``, best first; the last one is the start of the file.

        ``useless``: keyframes that turned out to be none.
        """
        if self.identity is Identity.BY_COUNT:
            return [0]
        tag = int(self.frame_tags[frame])
        starts: list[int] = []
        for nearest in range(bisect_right(self.keyframes, tag) - 1, -1, -1):
            key = self.keyframes[nearest]
            # Pictures that follow a keyframe in the file but are shown before it refer to earlier ones.
            if 0 <= self.rank[key] <= self.rank[tag] and key not in useless:
                starts.append(key)
                if len(starts) == 2:
                    break
        return starts if starts and starts[-1] == 0 else [*starts, 0]


@dataclass(frozen=True, slots=True)
class _Packet:
    pts: int | None
    dts: int | None
    content_key: tuple[int, int]
    is_key: bool
    is_hidden: bool
    is_damaged: bool


class PacketReader:
    """One open container and decoder: starts at a tag and yields pictures with their tags."""

    def __init__(self, path: Path):
        """Open the file.

        Raises:
            VideoError: not a video that can be read, or one without pictures.
        """
        self.path = path
        self.index: PacketIndex | None = None
        self.fed = -1
        """Tag of the last packet given to the decoder."""
        self._pending: Any = None
        self._emitted = 0
        self._ended = False
        self._container: Any = None
        self._open()

    @property
    def stream(self) -> Any:
        """PyAV's video stream."""
        return self._stream

    @property
    def format_name(self) -> str:
        """The container's name, e.g. ``"mov,mp4,m4a,3gp,3g2,mj2"``."""
        return str(self._container.format.name)

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._container is not None:
            self._packets: Iterator[Any] = iter(())
            self._container.close()
            self._container = None

    def raw_packets(self) -> Iterator[Any]:
        """All packets with data from here on; a damaged file ends early, as in a player."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                log.info("%s: reading packets ended early: %s", self.path, error)
                return
            if packet is None:
                return
            if packet.size:
                yield packet

    def start(self, tag: int) -> None:
        """Go to a packet; the next picture to come out belongs to it or follows it.

        Raises:
            VideoError: the file no longer holds that packet.
        """
        index = self._index()
        if index.identity is not Identity.BY_COUNT:
            nearest = bisect_right(index.keyframes, tag) - 1
            earlier = [index.keyframes[k] for k in (nearest - 1, nearest - 2) if k >= 0]
            for landing in (tag, *earlier):
                time = index.seek_times[landing]
                if time is not None and self._seek(time) and self._skip_to(tag):
                    return
        self.rewind()
        if not self._skip_to(tag):
            raise VideoError(f"{self.path.name!r} has changed since it was opened.")

    def rewind(self) -> None:
        """Back to the start of the file, by opening it anew: some containers cannot seek there.

        Raises:
            VideoError: it cannot be opened any more.
        """
        self._open()
        self._begin()

    def advance(self) -> list[tuple[int, Any]] | None:
        """Feed one packet; pictures that came out as (tag, PyAV frame), or None at the end of the file."""
        if self._ended:
            return None
        index = self._index()
        packet: Any = self._pending
        self._pending = None
        if packet is None:
            packet = next(self._packets, None)
        if packet is None:
            self._ended = True
            return self._tagged(self._decode(None))
        tag = self._tag(packet)
        if tag is None:
            return []
        self.fed = tag
        if index.identity is not Identity.BY_COUNT:
            packet.pts = tag  # decoders hand it on to the picture, whatever they reorder
        return self._tagged(self._decode(packet))

    def decoded_tags(self, first: int, stop: int) -> list[int]:
        """Tags of the pictures that decoding from ``first`` really yields, at least those before ``stop``."""
        rank = self._index().rank
        beyond = int(rank[stop]) if stop < len(rank) else None
        tags: list[int] = []
        self.start(first)
        while (pictures := self.advance()) is not None:
            tags.extend(tag for tag, _ in pictures)
            if beyond is not None and any(rank[tag] >= beyond for tag, _ in pictures):
                break
        return tags

    def _open(self) -> None:
        self.close()
        name = self.path.name
        try:
            self._container = av.open(
                str(self.path.absolute()),
                options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"},
                metadata_errors="replace",
            )
        except (av.error.FFmpegError, ValueError, UnicodeError) as error:
            log.info("%s cannot be opened: %s", self.path, error)
            raise VideoError(f"{name!r} is not a video that can be read.") from error
        streams = [s for s in self._container.streams.video if not s.disposition & s.disposition.attached_pic]
        if not streams:
            self.close()
            raise VideoError(f"{name!r} has no video stream.")
        self._stream = next((s for s in streams if s.disposition & s.disposition.default), streams[0])
        if self._stream.codec_context is None:
            self.close()
            raise VideoError(f"{name!r} uses a video codec that is not supported.")
        for other in self._container.streams:
            if other is not self._stream and other.index != self._stream.index:
                other.discard = av.stream.Discard.all
        try:
            check_size(name, self._stream.codec_context.height, self._stream.codec_context.width)
        except VideoError:
            self.close()
            raise
        # Threads by frame would be faster, but what they make of a damaged picture depends on their timing.
        self._stream.thread_type = "SLICE"
        self._begin()

    def _begin(self) -> None:
        self._packets = self.raw_packets()
        self._pending = None
        self._emitted = 0
        self._ended = False
        self.fed = -1

    def _seek(self, time: int) -> bool:
        try:
            self._container.seek(time, stream=self._stream, backward=True)
        except (av.error.FFmpegError, OverflowError) as error:
            log.debug("%s: seek to %s failed: %s", self.path, time, error)
            return False
        self._begin()
        return True

    def _skip_to(self, tag: int) -> bool:
        if self._index().identity is Identity.BY_COUNT:
            return True
        for packet in self._packets:
            found = self._tag(packet)
            if found == tag:
                self._pending = packet
                return True
            if found is not None and found > tag:
                return False
        return False

    def _tag(self, packet: Any) -> int | None:
        index = self._index()
        if index.identity is Identity.BY_COUNT:
            return self.fed + 1
        if index.identity is Identity.BY_TIME:
            return None if packet.pts is None else index.tag_of_key.get((packet.pts, 0))
        return index.tag_of_key.get(_content_key(packet))

    def _tagged(self, pictures: list[Any]) -> list[tuple[int, Any]]:
        if self._index().identity is Identity.BY_COUNT:
            first = self._emitted
            self._emitted += len(pictures)
            return list(enumerate(pictures, first))
        return [(int(picture.pts), picture) for picture in pictures if picture.pts is not None]

    def _decode(self, packet: Any) -> list[Any]:
        try:
            return list(self._stream.codec_context.decode(packet))
        except av.error.FFmpegError as error:
            log.info("%s: packet %d cannot be decoded: %s", self.path, self.fed, error)
            return []

    def _index(self) -> PacketIndex:
        if self.index is None:
            raise VideoError(f"{self.path.name!r} has no index yet.")
        return self.index


def build_index(reader: PacketReader) -> PacketIndex:
    """Demux the whole file once; decode only the parts whose packets cannot be believed.

    Raises:
        VideoError: there is not a single picture, or far too many.
    """
    trusted = _is_trusted(reader)
    packets = _read_packets(reader, with_content=not trusted)
    if not packets:
        raise VideoError(f"{reader.path.name!r} holds no pictures: it may be cut off.")
    times = [packet.pts for packet in packets]
    if trusted and None not in times and len(set(times)) == len(times):
        index = _index_by_time(reader, packets)
    else:
        if trusted:
            log.info("%s: its times are missing or not unique", reader.path)
            reader.rewind()
            packets = _read_packets(reader, with_content=True)
        index = _index_by_decoding(reader, packets)
    if not len(index.frame_tags):
        raise VideoError(f"No picture of {reader.path.name!r} can be decoded.")
    return index


def _is_trusted(reader: PacketReader) -> bool:
    return reader.format_name.split(",")[0] in _TRUSTED_TIMES or _codec(reader) in _NO_REORDERING


def _content_key(packet: Any) -> tuple[int, int]:
    return -1 if packet.pos is None else int(packet.pos), zlib.crc32(bytes(packet))


def _codec(reader: PacketReader) -> str:
    return str(reader.stream.codec_context.codec.canonical_name)


def _read_packets(reader: PacketReader, with_content: bool) -> list[_Packet]:
    hides_pictures = _codec(reader) == "vp8"
    packets: list[_Packet] = []
    for raw in reader.raw_packets():
        # VP8 keeps reference-only pictures in packets of their own; one bit of the first byte says so.
        is_reference_only = hides_pictures and not bytes(raw)[0] & 0x10
        packets.append(
            _Packet(
                raw.pts,
                raw.dts,
                _content_key(raw) if with_content else (0, 0),
                bool(raw.is_keyframe),
                bool(raw.is_discard) or is_reference_only,
                bool(raw.is_corrupt),
            )
        )
        if len(packets) & 0xFFFF == 0:
            check_count(reader.path.name, len(packets))
    return packets


def _seek_times(packets: list[_Packet]) -> list[int | None]:
    return [packet.dts if packet.dts is not None else packet.pts for packet in packets]


def _index_by_time(reader: PacketReader, packets: list[_Packet]) -> PacketIndex:
    times = np.array([packet.pts for packet in packets], np.int64)
    order = np.argsort(times, kind="stable")
    rank = np.empty(len(packets), np.int64)
    rank[order] = np.arange(len(packets))
    shown = np.array([not packet.is_hidden for packet in packets])
    keyframes = [tag for tag, packet in enumerate(packets) if packet.is_key] or [0]

    def assemble() -> PacketIndex:
        frame_tags = order[shown[order]]
        frame_of_tag = np.full(len(packets), -1, np.int64)
        frame_of_tag[frame_tags] = np.arange(len(frame_tags))
        unit = float(reader.stream.time_base or 0) or 1 / _DEFAULT_RATE
        seconds = (times[frame_tags] - times[frame_tags[:1]]).astype(np.float64) * unit
        return PacketIndex(
            Identity.BY_TIME,
            {(int(time), 0): tag for tag, time in enumerate(times)},
            _seek_times(packets),
            keyframes,
            rank,
            frame_tags,
            frame_of_tag,
            seconds,
            _frame_rate(reader, seconds),
        )

    index = assemble()
    for start, first, stop in _doubtful_spans(reader, packets, keyframes, rank):
        reader.index = index
        span = np.arange(first, stop)
        yielded = np.isin(span, reader.decoded_tags(start, stop)) | ~shown[span]
        if not yielded.all():
            log.info("%s: %d packets hold no picture", reader.path, int((~yielded).sum()))
            shown[span[~yielded]] = False
            index = assemble()
    return index


def _doubtful_spans(
    reader: PacketReader, packets: list[_Packet], keyframes: list[int], rank: npt.NDArray[np.int64]
) -> list[tuple[int, int, int]]:
    """Torn beginnings and ends, where a packet may hold no picture: (decode from, check from, check to)."""
    count = len(packets)
    spans: list[tuple[int, int, int]] = []
    second = keyframes[1] if len(keyframes) > 1 else count
    if (
        keyframes[0] != 0
        or rank[: keyframes[0] + 1].min() < rank[keyframes[0]]
        or _leads(rank, keyframes[0], second)
    ):
        spans.append((0, 0, second))
    promised = int(reader.stream.frames) if reader.format_name.startswith("mov") else 0
    is_whole_file_format = reader.format_name.startswith(("mov", "matroska"))
    if packets[-1].is_damaged or promised > count or not is_whole_file_format:
        # From the keyframe before the last: pictures after the last one may refer to the group before it.
        spans.append((keyframes[-2] if len(keyframes) > 1 else 0, keyframes[-1], count))
    return spans


def _leads(rank: npt.NDArray[np.int64], key: int, stop: int) -> bool:
    """Whether pictures of the group that starts at ``key`` are shown before it."""
    return bool((rank[key:stop] < rank[key]).any())


def _index_by_decoding(reader: PacketReader, packets: list[_Packet]) -> PacketIndex:
    """For streams without usable times: decode everything once and note what comes out in which order."""
    keys = {packet.content_key: tag for tag, packet in enumerate(packets)}
    identity = Identity.BY_CONTENT if len(keys) == len(packets) else Identity.BY_COUNT
    provisional = PacketIndex(
        identity,
        keys,
        _seek_times(packets),
        [tag for tag, packet in enumerate(packets) if packet.is_key] or [0],
        np.arange(len(packets)),
        np.arange(len(packets)),
        np.arange(len(packets)),
        np.zeros(len(packets)),
        _DEFAULT_RATE,
    )
    reader.index = provisional
    tags = reader.decoded_tags(0, len(packets))
    if len(set(tags)) != len(tags):
        # One packet with two pictures (packed B-frames): only counting from the start is exact.
        identity = Identity.BY_COUNT
        tags = list(range(len(tags)))
    frame_tags = np.array(tags, np.int64)
    size = max(len(packets), len(tags))
    frame_of_tag = np.full(size, -1, np.int64)
    frame_of_tag[frame_tags] = np.arange(len(tags))
    rate = _nominal_rate(reader)
    return PacketIndex(
        identity,
        provisional.tag_of_key,
        provisional.seek_times,
        provisional.keyframes,
        frame_of_tag,
        frame_tags,
        frame_of_tag,
        np.arange(len(tags), dtype=np.float64) / rate,
        rate,
    )


def _nominal_rate(reader: PacketReader) -> float:
    stream = reader.stream
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 0 < float(rate) <= 1000:
            return float(rate)
    return _DEFAULT_RATE


def _frame_rate(reader: PacketReader, seconds: npt.NDArray[np.float64]) -> float:
    """The container's exact rate where the times agree with it, else the average of the times."""
    nominal = _nominal_rate(reader)
    if len(seconds) < 2 or seconds[-1] <= 0:
        return nominal
    measured = (len(seconds) - 1) / float(seconds[-1])
    return nominal if abs(measured - nominal) <= 0.002 * nominal else measured

"""What the engine tells the window: plain immutable records, free of Qt and torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EngineError(RuntimeError):
    """Work of the engine failed; the message is one sentence for the user."""


class Phase(StrEnum):
    """Where a long task stands."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """True once nothing more will come."""
        return self in (Phase.FINISHED, Phase.CANCELLED, Phase.FAILED)


@dataclass(frozen=True, slots=True)
class TaskState:
    """One long task as the task strip shows it."""

    task_id: int
    title: str
    phase: Phase = Phase.WAITING
    done: int = 0
    total: int = 0
    """0 when the amount of work is unknown."""
    eta_s: float | None = None
    message: str = ""
    can_pause: bool = False
    can_cancel: bool = True
    is_share: bool = False
    """``done`` of ``total`` is a share of the whole: nothing that a user counts."""

    @property
    def is_paused(self) -> bool:
        """True while it is held."""
        return self.phase is Phase.PAUSED

    @property
    def fraction(self) -> float | None:
        """0..1, or None when the amount of work is unknown."""
        return min(1.0, self.done / self.total) if self.total else None


class ModelPhase(StrEnum):
    """Where loading the model stands."""

    NONE = "none"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ModelState:
    """The model the engine holds or is about to hold."""

    phase: ModelPhase = ModelPhase.NONE
    model_id: str = ""
    title: str = ""
    device: str = ""
    precision: str = ""
    message: str = ""
    """Why loading failed, one sentence."""
    mutual_kv_epsilon: float | None = None
    """The Mutual-KV threshold that the model was calibrated with, if any."""
    back_end: str = ""
    """What computes, e.g. ``fp32, 2 threads``."""
    kernels: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Parts on our own kernels, and parts left to PyTorch, each of those with the reason."""
    devices: tuple[str, ...] = ()
    """Devices of this machine: some of cpu, cuda, mps; empty while unknown."""

    @property
    def is_ready(self) -> bool:
        """True when it can answer."""
        return self.phase is ModelPhase.READY


@dataclass(frozen=True, slots=True)
class MutualKvChoice:
    """Whether memory frames that look alike share their keys and values, and how alike they must be."""

    enabled: bool = False
    epsilon: float | None = 0.94
    """Cosine similarity above which frames share; None: what the model was calibrated with, or for a model
    without such a value one that is chosen while tracking."""


@dataclass(frozen=True, slots=True)
class MutualKvFacts:
    """What sharing did since it was last changed."""

    memory_frames: float
    """Mean number of memory frames attended to, before sharing."""
    groups: float
    """And after."""
    saved_share: float
    """Share of memory attention's arithmetic that was not needed, 0..1."""
    keys_full: float = 0.0
    """Mean number of keys that memory attention would have seen without sharing."""
    keys_attended: float = 0.0
    """And that it saw."""
    attention_ms: float = 0.0
    """Mean time of memory attention for one object on one frame."""
    saved_ms: float = 0.0
    """What sharing saved of it, estimated from the arithmetic left out."""
    epsilon: float = 1.0
    """The threshold in use."""


@dataclass(frozen=True, slots=True)
class MutualKvComparison:
    """The same frames tracked without and with sharing."""

    frames: int
    """Frames that were tracked; prompted ones do not count."""
    masks: int
    iou_mean: float
    """Of the masks of both passes, 0..1."""
    iou_lowest: float
    lowest_frame: int
    """Where they differ most."""
    ms_without: float
    """Mean time of a frame with all its objects, on encoded frames."""
    ms_with: float
    memory_frames: float
    groups: float
    epsilon: float

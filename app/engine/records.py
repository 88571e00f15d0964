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

    @property
    def is_ready(self) -> bool:
        """True when it can answer."""
        return self.phase is ModelPhase.READY


@dataclass(frozen=True, slots=True)
class MutualKvChoice:
    """Whether memory frames that look alike share their keys and values, and how alike they must be."""

    enabled: bool = False
    epsilon: float = 0.94
    """Cosine similarity above which frames share."""


@dataclass(frozen=True, slots=True)
class MutualKvFacts:
    """What sharing did since it was last changed."""

    memory_frames: float
    """Mean number of memory frames attended to, before sharing."""
    groups: float
    """And after."""
    saved_share: float
    """Share of memory attention's arithmetic that was not needed, 0..1."""

"""What the engine needs from qcore as protocols, and the real thing; torch is imported off the GUI thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from app.engine.records import EngineError, MutualKvChoice, MutualKvFacts
from qcore.masks import Rle
from qcore.tracking.types import Direction, MaskResult, Prompt

Recall = Callable[[int, int], Rle | None]
"""(frame index, object id) -> the mask that the project holds there, or None."""


class Frames(Protocol):
    """The part of `qcore.video.FrameSource` that is used here."""

    def __len__(self) -> int:
        """Number of presented frames."""
        ...

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        """Frame ``index`` as uint8 RGB (H, W, 3)."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


class TrackingSession(Protocol):
    """The part of `qcore.tracking.VideoSession` that is used here."""

    def set_prompt(self, prompt: Prompt) -> MaskResult:
        """Replace one object's prompt on one frame and return its mask there."""
        ...

    def preview(self, prompt: Prompt) -> MaskResult:
        """The mask a prompt would give; changes nothing."""
        ...

    def clear_prompts(self, object_id: int, frame_index: int | None = None) -> None:
        """Forget an object's prompt on one frame or on all."""
        ...

    def remove_object(self, object_id: int) -> None:
        """Forget an object and its memories."""
        ...

    def propagate(
        self,
        start: int,
        stop: int,
        direction: Direction,
        objects: Sequence[int] | None,
        starts: Mapping[int, int] | None = None,
    ) -> Iterator[MaskResult]:
        """Track from ``start`` to ``stop``, both inclusive; ``starts``: where objects join on the way."""
        ...

    def encode(self, frame_index: int) -> None:
        """Put a frame's features into the cache."""
        ...

    def encoded_frames(self) -> npt.NDArray[np.bool_]:
        """One flag per frame: features are cached."""
        ...


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory with what the status bar says about it."""

    model: Any
    model_id: str
    title: str
    device: str
    precision: str
    """Bits of a quantized bundle, else the arithmetic: what the command line writes too."""
    mutual_kv_epsilon: float | None = None
    """The threshold the model was calibrated with, if any."""
    weighs_groups: bool = True
    """Whether it was calibrated with the weight of shared keys (see `MutualKvSettings.weigh_groups`)."""
    back_end: str = ""
    kernels: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    devices: tuple[str, ...] = ()
    """These three: see `ModelState`."""


class Backend(Protocol):
    """Makes models and sessions; replaced by a fake in tests."""

    def load_model(self, model_id: str, device: str) -> LoadedModel:
        """Load a model; raises an error whose message is one sentence for the user."""
        ...

    def open_session(self, loaded: LoadedModel, frames: Any, recall: Recall) -> TrackingSession:
        """A session over a frame source that only the engine's thread uses from now on.

        ``recall(frame index, object id)`` gives the mask that a click refines.
        """
        ...

    def release_memory(self, loaded: LoadedModel) -> None:
        """Give accelerator memory of dropped tensors back."""
        ...

    def set_mutual_kv(self, loaded: LoadedModel, session: TrackingSession, choice: MutualKvChoice) -> None:
        """Change how memory frames share keys and values, and count from here."""
        ...

    def mutual_kv_facts(self, session: TrackingSession) -> MutualKvFacts | None:
        """What sharing did; None before anything was tracked or while it is off."""
        ...


class QcoreBackend:
    """Models and sessions of `qcore`."""

    def load_model(self, model_id: str, device: str) -> LoadedModel:
        """See `Backend.load_model`; ``device`` is auto, cpu, cuda or mps."""
        import torch

        from qcore.models import load_model
        from qcore.models.registry import model_statuses
        from qcore.runtime import lower

        chosen = _choose_device(device)
        model = load_model(model_id, device=chosen, dtype=torch.float32)
        kernels = lower(model)
        known = {row.id: row for row in model_statuses()}
        title = known[model_id].title if model_id in known else model_id
        bits, header = _bundle_facts(model_id)
        precision = bits or str(kernels.precision)
        return LoadedModel(
            model, model_id, title, _device_title(chosen), precision,
            None if header is None else header.epsilon, header is None or header.log_bias,
            _back_end(chosen, kernels.arithmetic), (kernels.replaced, kernels.kept), _devices(),
        )  # fmt: skip

    def open_session(self, loaded: LoadedModel, frames: Any, recall: Recall) -> TrackingSession:
        """See `Backend.open_session`."""
        from qcore.tracking.aids import Aids
        from qcore.tracking.session import VideoSession

        session: TrackingSession = VideoSession(
            loaded.model, frames, recall=recall, aids=Aids.for_model(loaded.model)
        )
        return session

    def set_mutual_kv(self, loaded: LoadedModel, session: TrackingSession, choice: MutualKvChoice) -> None:
        """See `Backend.set_mutual_kv`."""
        from qcore.tracking.mutual_kv import MutualKvSettings
        from qcore.tracking.session import VideoSession

        assert isinstance(session, VideoSession)
        epsilon = loaded.mutual_kv_epsilon if choice.epsilon is None else choice.epsilon
        session.mutual_kv = (
            MutualKvSettings(epsilon=epsilon, weigh_groups=loaded.weighs_groups) if choice.enabled else None
        )
        session.reset_statistics()

    def mutual_kv_facts(self, session: TrackingSession) -> MutualKvFacts | None:
        """See `Backend.mutual_kv_facts`."""
        from qcore.tracking.session import VideoSession

        assert isinstance(session, VideoSession)
        known = session.statistics
        if session.mutual_kv is None or not known.steps:
            return None
        return MutualKvFacts(
            known.mean_memory_frames, known.mean_groups, known.macs_saved_share,
            known.keys_full / known.steps, known.keys_attended / known.steps,
            1000 * known.attention_s / known.steps, 1000 * known.saved_s / known.steps, known.epsilon,
        )  # fmt: skip

    def release_memory(self, loaded: LoadedModel) -> None:
        """See `Backend.release_memory`."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _bundle_facts(model_id: str) -> tuple[str, Any]:
    """A quantized bundle's bits and what it says about Mutual-KV; nothing for other models."""
    from qcore.models.loading import resolve_model
    from qcore.models.registry import stored_facts
    from qcore.quant.bundle import read_header

    path = resolve_model(model_id)
    if path.suffix != ".safetensors" or not stored_facts(path).is_bundle:
        return "", None
    header = read_header(path)
    return header.bits, header.mutual_kv


def _devices() -> tuple[str, ...]:
    import torch

    found = ["cuda"] if torch.cuda.is_available() else []
    found += ["mps"] if torch.backends.mps.is_available() else []
    return (*found, "cpu")


def _choose_device(wanted: str) -> str:
    found = _devices()
    if wanted == "auto":
        return found[0]
    if wanted.partition(":")[0] not in found:
        raise EngineError(f"This machine has no {wanted} device that PyTorch can use: choose another one.")
    return wanted


def _device_title(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return {"cpu": "CPU", "mps": "Apple GPU"}.get(device, device)


def _back_end(device: str, arithmetic: str) -> str:
    import torch

    if device != "cpu":
        return arithmetic
    threads = torch.get_num_threads()
    return f"{arithmetic}, 1 thread" if threads == 1 else f"{arithmetic}, {threads} threads"

"""What can be scored: a model through `VideoSession`, and two baselines that get the true first mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from qcore.evaluation.errors import EvaluationError
from qcore.evaluation.prompts import PromptKind
from qcore.masks import Rle, decode, encode
from qcore.tracking.types import MaskResult, Prompt
from qcore.video import FrameSource


class Tracker(Protocol):
    """Prompts in, masks of the frames from the first prompt to the last frame out."""

    def track(self, source: FrameSource, prompts: Sequence[Prompt]) -> Iterator[MaskResult]:
        """Follow one object a prompt; frames before an object's prompt may be left out."""
        ...


class SessionTracker:
    """A model, through the same session that the program uses."""

    def __init__(self, model: Any, mutual_kv: Any = None, aids: Any = None):
        """``model`` is a loaded `SAM2Base`; ``mutual_kv`` the session's `MutualKvSettings`, None for off;
        ``aids`` its `Aids`, None for those that the program takes."""
        self.model = model
        self._aids = aids
        self._options = {} if mutual_kv is None else {"mutual_kv": mutual_kv}

    def track(self, source: FrameSource, prompts: Sequence[Prompt]) -> Iterator[MaskResult]:
        """All prompts first, then one pass forward."""
        session = self.session(source)
        for prompt in prompts:
            session.set_prompt(prompt)
        yield from session.propagate()

    def session(self, source: FrameSource) -> Any:
        """A fresh `VideoSession` on a clip."""
        # these bring torch, which a baseline does not need
        from qcore.tracking.aids import Aids
        from qcore.tracking.session import VideoSession

        aids = Aids.for_model(self.model) if self._aids is None else self._aids
        return VideoSession(self.model, source, aids=aids, **self._options)


class StaticMaskTracker:
    """The first mask, never moved: what a clip gives away for free."""

    def track(self, source: FrameSource, prompts: Sequence[Prompt]) -> Iterator[MaskResult]:
        """The prompted mask in every later frame."""
        given = [(prompt, _given_mask(prompt)) for prompt in prompts]
        for frame in range(min(prompt.frame_index for prompt in prompts), len(source)):
            _ = source[frame]  # so that its speed is that of reading the clip, as for the others
            for prompt, mask in given:
                if frame >= prompt.frame_index:
                    yield MaskResult(frame, prompt.object_id, mask, 1.0, 1.0)


class OpticalFlowTracker:
    """The first mask, carried along by dense optical flow (DIS, medium preset) from frame to frame."""

    def track(self, source: FrameSource, prompts: Sequence[Prompt]) -> Iterator[MaskResult]:
        """The prompted mask, warped one frame at a time and kept soft in between."""
        flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        xs, ys = np.meshgrid(
            np.arange(source.width, dtype=np.float32), np.arange(source.height, dtype=np.float32)
        )
        soft: dict[int, npt.NDArray[np.float32]] = {}
        starts: dict[int, list[Prompt]] = {}
        for prompt in prompts:
            starts.setdefault(prompt.frame_index, []).append(prompt)
        before: npt.NDArray[np.uint8] | None = None
        for frame in range(min(starts), len(source)):
            grey: npt.NDArray[np.uint8] = cv2.cvtColor(source[frame], cv2.COLOR_RGB2GRAY)  # type: ignore[assignment]
            if before is not None and soft:
                # Where each pixel of this frame was in the one before, so that every pixel gets a value.
                shift_hw2 = flow.calc(grey, before, None)
                for object_id, mask in soft.items():
                    moved = cv2.remap(
                        mask,
                        xs + shift_hw2[..., 0],
                        ys + shift_hw2[..., 1],
                        cv2.INTER_LINEAR,
                        borderMode=cv2.BORDER_CONSTANT,
                    )
                    soft[object_id] = moved.astype(np.float32, copy=False)
            for prompt in starts.get(frame, []):
                soft[prompt.object_id] = decode(_given_mask(prompt)).astype(np.float32)
            before = grey
            for object_id, mask in soft.items():
                yield MaskResult(frame, object_id, encode(mask > 0.5), 1.0, 1.0)


BASELINES: dict[str, Callable[[], Tracker]] = {
    "static-mask": StaticMaskTracker,
    "optical-flow": OpticalFlowTracker,
}
"""Names that `evaluate` takes in place of a model. They always start from the true mask."""


def _given_mask(prompt: Prompt) -> Rle:
    if prompt.mask is None:
        raise EvaluationError(
            f"A baseline starts from a mask, not from a {PromptKind.BOX} or a {PromptKind.CLICK}."
        )
    return prompt.mask

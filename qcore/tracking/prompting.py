"""The mask of clicks and a box on one frame, as fast as the decoder, and the same whenever it is asked
for."""

from __future__ import annotations

import dataclasses

import torch

from qcore.tracking.close_look import CloseLook
from qcore.tracking.decoding import Decoded, decode, mask_result
from qcore.tracking.memory_bank import Keyframe, ObjectMemory, continues
from qcore.tracking.preprocess import mask_logits, point_inputs
from qcore.tracking.tracker import ObjectTracker
from qcore.tracking.types import MaskResult, Prompt, Recall
from qcore.tracking.workers import team_for


class PromptDecoder:
    """Decodes prompts against what a session knows, without changing it.

    Args:
        tracker: of the session.
        recall: see `VideoSession`.
        close_look: look closely at boxed objects, see `close_look.py`.
    """

    def __init__(self, tracker: ObjectTracker, recall: Recall | None, close_look: bool = False) -> None:
        self._tracker = tracker
        self.recall = recall
        self._close_look = CloseLook(tracker) if close_look else None
        self._features: tuple[object, torch.Tensor | None] | None = None

    def forget_features(self) -> None:
        """Drop the conditioned features kept for further clicks; memories have changed."""
        self._features = None

    def keyframe(self, prompt: Prompt, memory: ObjectMemory | None, is_hovering: bool = False) -> Keyframe:
        """The keyframe that a prompt's clicks and box make of their frame.

        Args:
            is_hovering: the next place is asked for in a moment, so a first click is not looked at closely.
        """
        previous = self._previous_logits(prompt, memory)
        if prompt.box_xyxy is not None:
            close = self._seen_closely(prompt, prompt.box_xyxy, previous)
            if close is not None:
                return close
        tracker = self._tracker
        frame_index = prompt.frame_index
        decoded = self._decode(prompt, memory, previous)
        is_tracked = memory is not None and memory.tracked[frame_index] != 0
        is_first_click = prompt.labels == (1,) and previous is None and not is_tracked
        if is_first_click and not is_hovering and decoded.is_present and self._close_look is not None:
            # what follows edges has more specks, and they would move the box
            found = mask_result(decoded, frame_index, prompt.object_id, tracker.size_hw).rle
            if not found.is_empty:
                x, y, width, height = found.box_xywh
                close = self._seen_closely(prompt, (x, y, x + width, y + height), previous)
                if close is not None:
                    return close
        guide = tracker.encoder.guide(frame_index, tracker.encoder[frame_index])
        result = mask_result(decoded, frame_index, prompt.object_id, tracker.size_hw, guide)
        return Keyframe(
            result, prompt, None, decoded.logits_b1hw, decoded.pointer_bc, decoded.presence_logit_b1
        )

    def _seen_closely(
        self, prompt: Prompt, box_xyxy: tuple[float, float, float, float], previous: torch.Tensor | None
    ) -> Keyframe | None:
        """The keyframe of a closer look at a box; None where nobody asks for one, or nothing is found."""
        if self._close_look is None:
            return None
        boxed = dataclasses.replace(prompt, box_xyxy=box_xyxy)
        close = self._close_look.mask(boxed, previous)
        if close is None:
            return None
        model = self._tracker.model
        result = MaskResult(prompt.frame_index, prompt.object_id, close.rle, close.score, close.presence)
        return Keyframe(result, prompt, close.rle, mask_logits(close.rle, model.image_size, model.device))

    def _decode(self, prompt: Prompt, memory: ObjectMemory | None, previous: torch.Tensor | None) -> Decoded:
        """Mask of a prompt's clicks and box.

        A frame that was tracked before is seen with the object's memories, as upstream does; any other frame
        without them.
        """
        tracker = self._tracker
        frame_index = prompt.frame_index
        frame = tracker.encoder[frame_index]
        features_bchw = self._conditioned(frame_index, prompt.object_id, memory)
        seen_bchw = tracker.unconditioned(frame_index) if features_bchw is None else features_bchw
        with team_for(seen_bchw.shape[-2] * seen_bchw.shape[-1], seen_bchw.device):
            return decode(
                tracker.model,
                seen_bchw,
                frame,
                point_inputs(prompt, tracker.size_hw, tracker.model.image_size, tracker.model.device),
                previous,
                is_first=features_bchw is None,
            )

    def _conditioned(
        self, frame_index: int, object_id: int, memory: ObjectMemory | None
    ) -> torch.Tensor | None:
        """Conditioned features of a tracked frame, kept while the user goes on clicking on it.

        Kept also because the first correction drops the memories around the frame: later clicks of the same
        correction, and taking them back, must see what the first one saw.
        """
        if memory is None or memory.tracked[frame_index] == 0:
            return None
        others = tuple(sorted((t, key.uid) for t, key in memory.keyframes.items() if t != frame_index))
        key = (frame_index, object_id, others)
        if self._features is None or self._features[0] != key:
            reverse = bool(memory.tracked[frame_index] < 0)
            self._features = (key, self._tracker.conditioned(frame_index, memory, reverse))
        return self._features[1]

    def _previous_logits(self, prompt: Prompt, memory: ObjectMemory | None) -> torch.Tensor | None:
        """The mask that a prompt corrects, as logits (1, 1, S/4, S/4); None where it starts anew.

        That is the mask of the prompt it continues or, for clicks on a frame without one, the mask that was
        given, accepted or tracked there. A newly drawn box starts anew: the old mask may be of another thing.
        """
        logits = self._continued(prompt, memory)
        if logits is None and prompt.box_xyxy is None:
            logits = self._found_on_frame(prompt, memory)
        return logits if logits is not None and bool((logits > 0).any()) else None

    def _continued(self, prompt: Prompt, memory: ObjectMemory | None) -> torch.Tensor | None:
        if memory is None:
            return None
        if memory.clicks is not None and memory.clicks.frame_index == prompt.frame_index:
            logits = memory.clicks.before(prompt)
            if logits is not None:
                return logits
        keyframe = memory.keyframes.get(prompt.frame_index)
        if keyframe is not None and keyframe.prompt is not None and continues(prompt, keyframe.prompt):
            return keyframe.logits_b1hw
        return None

    def _found_on_frame(self, prompt: Prompt, memory: ObjectMemory | None) -> torch.Tensor | None:
        """The mask that was on the frame before anything was clicked there."""
        frame_index = prompt.frame_index
        keyframe = memory.keyframes.get(frame_index) if memory is not None else None
        is_own = keyframe is not None and keyframe.prompt is not None and keyframe.prompt.mask is None
        rle = keyframe.given_mask if keyframe is not None and not is_own else None
        if rle is None and memory is not None and frame_index in memory.logits:
            return memory.logits[frame_index]
        if rle is None and keyframe is None and self.recall is not None:
            rle = self.recall(frame_index, prompt.object_id)
        if rle is None:
            return None
        model = self._tracker.model
        return mask_logits(rle, model.image_size, model.device)

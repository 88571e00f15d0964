"""What makes up for a model's size: steps of our own that SAM 2 does not take, for models with a small input.

A session without them computes upstream's masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qcore.models.doubt_head import doubt_head_of

LARGEST_INPUT = 512
"""Input side in pixels up to which they are used: measured with the embedded model only, and at 1024
SAM 2 sees enough without."""


@dataclass(frozen=True, slots=True)
class Aids:
    """Which of them a session takes."""

    close_look: bool = False
    """See the crop around a drawn box or a first click's mask, and its mirror image, at the model's full
    input size: a better mask on that frame for two more runs of the encoder (`close_look.py`)."""
    rivalry: bool = False
    """Objects tracked in the same pass compete for pixels, but for those that overlap on their own keyframes:
    other masks than each would get alone (`rivalry.py`)."""
    appearance: bool = False
    """Remember masks with the opinion of a linear model of the object's looks added (`appearance.py`)."""
    edges: bool = False
    """Let outlines of masks that are shown follow the edges of the picture (`edges.py`)."""
    doubt: bool = False
    """Show no mask that is probably of something else, though it is remembered (`doubt.py`). A doubt head is
    asked only with `appearance`."""
    search: bool = False
    """Now and then look for an object that is out of view by the frames that show it alone: those without it
    can hide its return (`doubt.py`)."""

    @property
    def see_pictures(self) -> bool:
        """Whether a frame's own pixels are kept beside its features."""
        return self.appearance or self.edges

    @classmethod
    def for_model(cls, model: Any) -> Aids:
        """All of them for a model with a small input, none for others; no search without a doubt head."""
        if int(model.image_size) > LARGEST_INPUT:
            return cls()
        return cls(
            close_look=True,
            rivalry=True,
            appearance=True,
            edges=True,
            doubt=True,
            search=doubt_head_of(model) is not None,
        )


NO_AIDS = Aids()

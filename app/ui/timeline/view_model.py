"""What the timeline is told: plain arrays over the frames, no project, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt


class Cell(IntEnum):
    """What a lane shows at one frame."""

    NONE = 0
    """Not tracked yet."""
    ABSENT = 1
    """Tracked, but the object is out of view (empty mask)."""
    TRACKED = 2
    IMPORTED = 3
    EDITED = 4
    PROMPTED = 5


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """One object's row; all arrays have one entry per frame."""

    object_id: int
    name: str
    color: str
    cells: npt.NDArray[np.uint8]
    """`Cell` values."""
    confidence: npt.NDArray[np.float32]
    """0..1, NaN where there is no mask."""
    reviewed: npt.NDArray[np.bool_]
    selected: bool = False
    visible: bool = True
    gone: npt.NDArray[np.bool_] | None = None
    """Frames on which a person said that the object is not in view: edited cells without a mask."""

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Frames that show the object."""
        found: npt.NDArray[np.bool_] = self.cells >= Cell.TRACKED
        return found if self.gone is None else found & ~self.gone

    @property
    def absent(self) -> npt.NDArray[np.bool_]:
        """Frames on which it is out of view, tracked or said."""
        found: npt.NDArray[np.bool_] = self.cells == Cell.ABSENT
        return found if self.gone is None else found | self.gone

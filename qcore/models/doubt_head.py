"""A second head beside SAM 2's presence head: is what was tracked the object that was asked for?

The presence head decides what the model remembers, so it must not forget an object that is merely hard to
see. What is shown can be judged more strictly: a mask that is left out on one frame costs that frame and no
more. The head sees the presence token and some signs that are measured on the mask
(`qcore/tracking/doubt.py`). Its weights belong to the model and are stored with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from types import MethodType
from typing import Any

import torch
from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam2_utils import MLP
from torch import Tensor, nn

SIGNS = (
    "score",
    "alike",
    "presence",
    "sureness",
    "peak",
    "softness",
    "growth",
    "overlap",
    "travel",
    "steadiness",
    "border",
)
"""What the doubt head sees beside the token, see `qcore.tracking.doubt.signs_of`."""
SIGNS_OF_LINE = 2
"""How many of them, from the first on, are weighed together with the token."""
HIDDEN = 128
"""Width of the net."""
HEADS_AND_TOKEN = "heads_and_token"
"""Name of the method that models with a doubt head have: see `add_doubt_head`."""

_HEARD: ContextVar[list[Tensor] | None] = ContextVar("heard_tokens", default=None)


class DoubtHead(nn.Module):
    """How much a mask is to be doubted, as a logit.

    The sum of a line through the token and the first signs, and of a small net over all signs. Alone, the
    line misses what is wrong about a mask, and the net takes what merely shrinks for wrong; their errors are
    on different frames.

    Args:
        channels: of the presence token.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.line = nn.Linear(channels + SIGNS_OF_LINE, 1)
        self.hidden = nn.Linear(len(SIGNS), HIDDEN)
        self.last = nn.Linear(HIDDEN, 1)
        for layer in (self.line, self.hidden, self.last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.line.bias, -1.0)  # no doubt

    def forward(self, inputs_bk: Tensor) -> Tensor:
        """Doubt as a logit (B, 1) from tokens and `SIGNS`, float32 (B, channels + signs)."""
        line_b1: Tensor = self.line(inputs_bk[:, : self.line.in_features])
        net_b1: Tensor = self.last(torch.relu(self.hidden(inputs_bk[:, self.channels :])))
        return line_b1 + net_b1


class DoubtingHead(MLP):
    """SAM 2's presence head, computed as ever, with the doubt head as a part of it.

    Args:
        presence: the head it takes the place of; its layers become this one's.
        channels: of the presence token.
    """

    def __init__(self, presence: MLP, channels: int) -> None:
        nn.Module.__init__(self)
        self.__dict__.update({k: v for k, v in presence.__dict__.items() if not k.startswith("_")})
        self._modules.update(presence._modules)
        self.doubt = DoubtHead(channels)

    def forward(self, token_bc: Tensor) -> Tensor:
        """Presence logit (B, 1)."""
        heard = _HEARD.get()
        if heard is not None:
            heard.append(token_bc)
        presence_b1: Tensor = super().forward(token_bc)
        return presence_b1


def add_doubt_head(model: SAM2Base) -> None:
    """Give a model with a presence head a doubt head that never doubts, and the method `HEADS_AND_TOKEN`.

    The method is `SAM2Base._forward_sam_heads` with one more result: the presence token (B, C).
    """
    decoder = model.sam_mask_decoder
    decoder.pred_obj_score_head = DoubtingHead(decoder.pred_obj_score_head, decoder.transformer_dim)
    setattr(model, HEADS_AND_TOKEN, MethodType(_heads_and_token, model))


def doubt_head_of(model: SAM2Base) -> DoubtHead | None:
    """A model's doubt head, if it has one."""
    head = getattr(model.sam_mask_decoder, "pred_obj_score_head", None)
    return head.doubt if isinstance(head, DoubtingHead) else None


def _heads_and_token(model: SAM2Base, **inputs: Any) -> tuple[Tensor, ...]:
    with _hearing() as tokens:
        # the class's: on the model itself there may be a recording, inside which nothing is heard
        outputs = type(model)._forward_sam_heads(model, **inputs)
    return (*outputs, tokens[-1])


@contextlib.contextmanager
def _hearing() -> Iterator[list[Tensor]]:
    """Collect the tokens that presence heads are given in the block, on this thread."""
    tokens: list[torch.Tensor] = []
    before = _HEARD.set(tokens)
    try:
        yield tokens
    finally:
        _HEARD.reset(before)

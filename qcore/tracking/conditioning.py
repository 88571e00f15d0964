"""Conditions a frame's features on an object's memories: builds the memory tokens and runs memory attention.

Restates `SAM2Base._prepare_memory_conditioned_features` for one object, with the choice of frames taken out
(`memory_plan`) and a place for the tokens to be grouped before they are concatenated.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam2_utils import get_1d_sine_pe

from qcore.tracking.feature_cache import EncodedFrame
from qcore.tracking.memory_attention import attend_memory
from qcore.tracking.memory_bank import MemoryEntry
from qcore.tracking.memory_plan import MemoryPlan


class Conditioner:
    """Memory attention of one model, with the constants it needs computed once."""

    def __init__(self, model: SAM2Base) -> None:
        self._model = model
        self._map_position_mbc: torch.Tensor | None = None

    def without_memory(self, frame: EncodedFrame, position_1chw: torch.Tensor) -> torch.Tensor:
        """Features (1, C, H, W) of a frame that is prompted with no other frame known."""
        model = self._model
        if model.num_maskmem == 0:
            return frame.top_bchw
        if model.directly_add_no_mem_embed:
            return frame.top_bchw + model.no_mem_embed.view(1, -1, 1, 1)
        return self._attend(
            frame,
            position_1chw,
            model.no_mem_embed.expand(1, 1, model.mem_dim),
            model.no_mem_pos_enc.expand(1, 1, model.mem_dim),
            0,
        )

    def with_memory(
        self,
        frame: EncodedFrame,
        position_1chw: torch.Tensor,
        plan: MemoryPlan,
        entries: Callable[[int], MemoryEntry],
        frame_count: int,
    ) -> torch.Tensor:
        """Features (1, C, H, W) of a frame that attends to the planned memories.

        Args:
            entries: the memory of a planned frame.
            frame_count: length of the video; in short videos SAM 2 scales pointer times by it.
        """
        tokens: list[torch.Tensor] = []
        positions: list[torch.Tensor] = []
        for t_pos, t in plan.maps:
            map_bchw = entries(t).map_bchw
            if map_bchw is None:
                continue
            tokens.append(map_bchw.to(frame.top_bchw.device).flatten(2).permute(2, 0, 1))
            positions.append(self._map_position(map_bchw, t_pos))
        pointer_tokens = self._pointers(plan, entries, frame_count)
        pointer_count = 0
        if pointer_tokens is not None:
            tokens.append(pointer_tokens[0])
            positions.append(pointer_tokens[1])
            pointer_count = pointer_tokens[0].shape[0]
        dtype = frame.top_bchw.dtype
        return self._attend(
            frame,
            position_1chw,
            torch.cat([token.to(dtype) for token in tokens]),
            torch.cat([position.to(dtype) for position in positions]),
            pointer_count,
        )

    def _attend(
        self,
        frame: EncodedFrame,
        position_1chw: torch.Tensor,
        memory_mbc: torch.Tensor,
        memory_pos_mbc: torch.Tensor,
        pointer_count: int,
        key_bias_m: torch.Tensor | None = None,
    ) -> torch.Tensor:
        top = frame.top_bchw
        output_nbc = attend_memory(
            self._model.memory_attention,
            top.flatten(2).permute(2, 0, 1),
            position_1chw.to(top.dtype).flatten(2).permute(2, 0, 1),
            memory_mbc,
            memory_pos_mbc,
            pointer_count,
            key_bias_m,
        )
        return output_nbc.permute(1, 2, 0).reshape(top.shape)

    def _map_position(self, map_bchw: torch.Tensor, t_pos: int) -> torch.Tensor:
        """Position of a memory map's tokens in space and time (M, 1, C)."""
        model = self._model
        if self._map_position_mbc is None:
            space_bchw = model.memory_encoder.position_encoding(map_bchw.float())
            self._map_position_mbc = space_bchw.flatten(2).permute(2, 0, 1)
        return self._map_position_mbc + model.maskmem_tpos_enc[model.num_maskmem - t_pos - 1]

    def _pointers(
        self, plan: MemoryPlan, entries: Callable[[int], MemoryEntry], frame_count: int
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Tokens and positions of the object pointers, each split into tokens of the memory's width."""
        if not plan.pointers:
            return None
        model = self._model
        distances, frames = zip(*plan.pointers, strict=True)
        pointers_pbc = torch.stack([entries(t).pointer_bc for t in frames])
        width = model.mem_dim
        if model.add_tpos_enc_to_obj_ptrs:
            longest = max(1, min(frame_count, model.max_obj_ptrs_in_encoder) - 1)
            time_p = torch.tensor(distances, device=pointers_pbc.device) / longest
            time_dim = model.hidden_dim if model.proj_tpos_enc_in_obj_ptrs else width
            time_pc = get_1d_sine_pe(time_p, dim=time_dim).to(pointers_pbc.dtype)
            positions_pbc = model.obj_ptr_tpos_proj(time_pc)[:, None]
        else:
            positions_pbc = pointers_pbc.new_zeros(len(distances), 1, width)
        parts = model.hidden_dim // width
        if parts > 1:
            pointers_pbc = pointers_pbc.reshape(-1, 1, parts, width).permute(0, 2, 1, 3).flatten(0, 1)
            positions_pbc = positions_pbc.repeat_interleave(parts, dim=0)
        return pointers_pbc, positions_pbc

"""Conditions a frame's features on an object's memories: builds the memory tokens and runs memory attention.

Restates `SAM2Base._prepare_memory_conditioned_features` for one object, with the choice of frames taken out
(`memory_plan`) and a place for the tokens to be grouped before they are concatenated.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam2_utils import get_1d_sine_pe

from qcore.tracking.feature_cache import EncodedFrame
from qcore.tracking.memory_attention import as_tokens, attend_memory
from qcore.tracking.memory_bank import MemoryEntry
from qcore.tracking.memory_plan import MemoryPlan
from qcore.tracking.mutual_kv import MemoryFrame
from qcore.tracking.mutual_kv_live import MutualKv


@dataclass(frozen=True, slots=True)
class MemoryTokens:
    """What a frame attends to: memory maps or groups of them, then object pointers."""

    memory_mbc: torch.Tensor
    position_mbc: torch.Tensor
    pointer_count: int
    key_bias_m: torch.Tensor | None
    frames: int
    """Memory frames before grouping."""
    groups: int


class Conditioner:
    """Memory attention of one model, with the constants it needs computed once."""

    def __init__(self, model: SAM2Base, mutual_kv: MutualKv) -> None:
        self._model = model
        self.mutual_kv = mutual_kv
        self._map_position_mbc: torch.Tensor | None = None
        self._counting = threading.Lock()

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

    def gather(
        self,
        plan: MemoryPlan,
        entries: Callable[[int], MemoryEntry],
        frame_count: int,
        dtype: torch.dtype,
    ) -> MemoryTokens:
        """The tokens of the planned memories. Mutual-KV learns from them: call it in the order of frames.

        Args:
            entries: the memory of a planned frame.
            dtype: of the tokens.
            frame_count: length of the video; in short videos SAM 2 scales pointer times by it.
        """
        frames = [self._memory_frame(entries(t), t_pos) for t_pos, t in plan.maps]
        merged = self.mutual_kv.merge(frames)
        tokens, positions = list(merged.tokens), list(merged.positions)
        pointers = self._pointers(plan, entries, frame_count)
        pointer_count = 0
        if pointers is not None:
            pointer_count = pointers[0].shape[0]
            tokens.append(pointers[0])
            positions.append(pointers[1])
        return MemoryTokens(
            torch.cat([token.to(dtype) for token in tokens]),
            torch.cat([position.to(dtype) for position in positions]),
            pointer_count,
            self.mutual_kv.key_bias(merged, pointer_count),
            len(frames),
            len(merged.counts),
        )

    def with_memory(
        self,
        frame: EncodedFrame,
        position_1chw: torch.Tensor,
        tokens: MemoryTokens,
        self_attended_bnc: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Features (1, C, H, W) of a frame that attends to memories; several threads may call it.

        ``self_attended_bnc`` is what `FrameEncoder.self_attended` gave for the frame.
        """
        begin = time.perf_counter()
        features_bchw = self._attend(
            frame,
            position_1chw,
            tokens.memory_mbc,
            tokens.position_mbc,
            tokens.pointer_count,
            tokens.key_bias_m,
            self_attended_bnc,
        )
        self._count(tokens, frame, time.perf_counter() - begin)
        return features_bchw

    def _attend(
        self,
        frame: EncodedFrame,
        position_1chw: torch.Tensor,
        memory_mbc: torch.Tensor,
        memory_pos_mbc: torch.Tensor,
        pointer_count: int,
        key_bias_m: torch.Tensor | None = None,
        self_attended_bnc: torch.Tensor | None = None,
    ) -> torch.Tensor:
        top = frame.top_bchw
        output_nbc = attend_memory(
            self._model.memory_attention,
            as_tokens(top),
            as_tokens(position_1chw.to(top.dtype)),
            memory_mbc,
            memory_pos_mbc,
            pointer_count,
            key_bias_m,
            self_attended_bnc,
        )
        return output_nbc.permute(1, 2, 0).reshape(top.shape)

    def _memory_frame(self, entry: MemoryEntry, t_pos: int) -> MemoryFrame:
        map_bchw = entry.map_bchw
        assert map_bchw is not None, "memory maps within reach are kept"
        return MemoryFrame(
            entry.uid,
            t_pos,
            as_tokens(map_bchw.to(self._model.device)),
            self._map_position(map_bchw, t_pos),
            entry.is_present,
        )

    def _count(self, tokens: MemoryTokens, frame: EncodedFrame, seconds: float) -> None:
        queries = frame.top_bchw.shape[-2] * frame.top_bchw.shape[-1]
        keys_full, keys = (count * queries + tokens.pointer_count for count in (tokens.frames, tokens.groups))
        macs_full, macs_done = (
            memory_attention_macs(self._model, queries, count) for count in (keys_full, keys)
        )
        with self._counting:
            statistics = self.mutual_kv.statistics
            statistics.steps += 1
            statistics.memory_frames += tokens.frames
            statistics.groups += tokens.groups
            statistics.keys_full += keys_full
            statistics.keys_attended += keys
            statistics.macs_full += macs_full
            statistics.macs_done += macs_done
            statistics.attention_s += seconds

    def _map_position(self, map_bchw: torch.Tensor, t_pos: int) -> torch.Tensor:
        """Position of a memory map's tokens in space and time (M, 1, C)."""
        model = self._model
        if self._map_position_mbc is None:
            space_bchw = model.memory_encoder.position_encoding(map_bchw.float())
            self._map_position_mbc = as_tokens(space_bchw)
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


def memory_attention_macs(model: SAM2Base, queries: int, keys: int) -> float:
    """Multiply-accumulates of memory attention for one object, from its shapes."""
    module = model.memory_attention
    width, hidden = model.hidden_dim, module.layers[0].dim_feedforward
    self_attention = 4 * queries * width**2 + 2 * queries**2 * width
    cross_attention = 2 * queries * width**2 + 2 * keys * model.mem_dim * width + 2 * queries * keys * width
    return float(len(module.layers) * (self_attention + cross_attention + 2 * queries * width * hidden))

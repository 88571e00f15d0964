"""Which memories a frame attends to, and as which tokens: against upstream's code on the same memories."""

from __future__ import annotations

import copy
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sam2.modeling.sam2_base import SAM2Base

from qcore.tracking.conditioning import Conditioner
from qcore.tracking.feature_cache import EncodedFrame
from qcore.tracking.memory_bank import MemoryEntry
from qcore.tracking.memory_plan import ConditioningRule, MemoryGeometry, plan_memory
from qcore.tracking.mutual_kv_live import MutualKv

FRAME_COUNT = 40


class Recorder(torch.nn.Module):
    """Stands in for memory attention: keeps its input and returns the features as they are."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.layers = original.layers
        self.seen: dict[str, Any] = {}

    def forward(self, **inputs: Any) -> torch.Tensor:
        self.seen = inputs
        return inputs["curr"][0]


def entry_of(model: SAM2Base, frame_index: int) -> MemoryEntry:
    """A memory whose every number names its frame."""
    side = model.sam_image_embedding_size
    memory_map = torch.full((1, model.mem_dim, side, side), float(frame_index))
    return MemoryEntry(memory_map, torch.full((1, model.hidden_dim), frame_index + 0.5), True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    frame_index=st.integers(0, FRAME_COUNT - 1),
    conditioning=st.sets(st.integers(0, FRAME_COUNT - 1), min_size=1, max_size=7),
    tracked=st.sets(st.integers(0, FRAME_COUNT - 1), max_size=FRAME_COUNT),
    reverse=st.booleans(),
    stride=st.integers(1, 3),
    cap=st.sampled_from([None, 2, 3, 4]),
    only_past=st.booleans(),
    signed=st.booleans(),
)
def test_tokens_equal_upstream_s(
    micro_model: SAM2Base,
    frame_index: int,
    conditioning: set[int],
    tracked: set[int],
    reverse: bool,
    stride: int,
    cap: int | None,
    only_past: bool,
    signed: bool,
) -> None:
    conditioning = conditioning - {frame_index} or {(frame_index + 1) % FRAME_COUNT}
    tracked = tracked - conditioning - {frame_index}
    model: Any = copy.copy(micro_model)
    model._modules = dict(micro_model._modules)
    recorder = Recorder(micro_model.memory_attention)
    model.memory_attention = recorder
    model.memory_temporal_stride_for_eval = stride
    model.max_cond_frames_in_attn = -1 if cap is None else cap
    model.only_obj_ptrs_in_the_past_for_eval = only_past
    model.use_signed_tpos_enc_to_obj_ptrs = signed
    entries = {t: entry_of(model, t) for t in conditioning | tracked}
    side = model.sam_image_embedding_size
    frame = EncodedFrame((torch.zeros(1, model.hidden_dim, side, side),))
    position = torch.zeros_like(frame.top_bchw)

    space = model.memory_encoder.position_encoding(entries[min(conditioning)].map_bchw)
    outputs = {
        t: {"maskmem_features": e.map_bchw, "maskmem_pos_enc": [space], "obj_ptr": e.pointer_bc}
        for t, e in entries.items()
    }
    flat = frame.top_bchw.flatten(2).permute(2, 0, 1)
    model._prepare_memory_conditioned_features(
        frame_idx=frame_index,
        is_init_cond_frame=False,
        current_vision_feats=[flat],
        current_vision_pos_embeds=[torch.zeros_like(flat)],
        feat_sizes=[(side, side)],
        output_dict={
            "cond_frame_outputs": {t: outputs[t] for t in sorted(conditioning)},
            "non_cond_frame_outputs": {t: outputs[t] for t in tracked},
        },
        num_frames=FRAME_COUNT,
        track_in_reverse=reverse,
    )
    expected = recorder.seen

    rule = ConditioningRule(max_frames=cap, attend_future=True)
    plan = plan_memory(
        MemoryGeometry.of(model), rule, frame_index, FRAME_COUNT, conditioning, tracked, tracked, reverse
    )
    conditioner = Conditioner(model, MutualKv())
    tokens = conditioner.gather(plan, entries.__getitem__, FRAME_COUNT, torch.float32)
    conditioner.with_memory(frame, position, tokens)
    found = recorder.seen

    order = sorted_tokens(expected), sorted_tokens(found)
    assert expected["num_obj_ptr_tokens"] == found["num_obj_ptr_tokens"]
    assert torch.equal(order[0], order[1])


def sorted_tokens(seen: dict[str, Any]) -> torch.Tensor:
    """Memory and position of every token side by side, sorted: attention does not see the order."""
    pointers = seen["num_obj_ptr_tokens"]
    both = torch.cat([seen["memory"].float(), seen["memory_pos"].float()], dim=2)[:, 0]
    spatial, rest = both[: len(both) - pointers], both[len(both) - pointers :]
    tokens = int((16 * 16) / 64 * 4)  # 4 x 4 positions of a 64-pixel input
    frames = sorted(spatial.split(tokens), key=lambda part: part.flatten().tolist())
    return torch.cat([*frames, *sorted(rest.split(1), key=lambda part: part.flatten().tolist())])


@given(
    frame_index=st.integers(0, FRAME_COUNT - 1),
    conditioning=st.sets(st.integers(0, FRAME_COUNT - 1), min_size=1),
    reverse=st.booleans(),
)
def test_by_default_no_prompt_ahead_is_attended_and_at_most_four(
    micro_model: SAM2Base, frame_index: int, conditioning: set[int], reverse: bool
) -> None:
    conditioning -= {frame_index}
    plan = plan_memory(
        MemoryGeometry.of(micro_model),
        ConditioningRule(),
        frame_index,
        FRAME_COUNT,
        conditioning,
        (),
        (),
        reverse,
    )
    behind = sorted(
        (t for t in conditioning if (t > frame_index) == reverse), key=lambda t: abs(t - frame_index)
    )
    as_conditioning = {t for t_pos, t in plan.maps if t_pos == 0}
    assert as_conditioning == set(behind[:4])
    assert all(t in behind for _, t in plan.maps + plan.pointers)


@given(
    frame_index=st.integers(0, FRAME_COUNT - 1),
    conditioning=st.sets(st.integers(0, FRAME_COUNT - 1), min_size=1),
    absent=st.sets(st.integers(0, FRAME_COUNT - 1)),
)
def test_frames_without_the_object_never_crowd_out_those_that_show_it(
    micro_model: SAM2Base, frame_index: int, conditioning: set[int], absent: set[int]
) -> None:
    conditioning -= {frame_index}
    plan = plan_memory(
        MemoryGeometry.of(micro_model), ConditioningRule(), frame_index, FRAME_COUNT, conditioning, (), (),
        False, absent,
    )  # fmt: skip
    behind = sorted((t for t in conditioning if t < frame_index), reverse=True)
    shown, gone = [t for t in behind if t not in absent], [t for t in behind if t in absent]
    taken = {t for t_pos, t in plan.maps if t_pos == 0}
    assert len(taken) == min(4, len(behind))
    assert len(taken & set(shown)) >= min(2, len(shown))
    assert taken & set(shown) == set(shown[: len(taken & set(shown))])
    assert taken & set(gone) == set(gone[: len(taken & set(gone))])

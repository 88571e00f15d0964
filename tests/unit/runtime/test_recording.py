"""Recordings against the functions they are of, and what they must refuse."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qcore.models import EmbeddedArch, build_embedded, load_model
from qcore.models.doubt_head import HEADS_AND_TOKEN
from qcore.runtime import lower
from qcore.runtime.errors import UnsupportedModuleError
from qcore.runtime.recorded_calls import MOST_POSITIONS, Recorded, call_plainly, record_calls, trials
from qcore.runtime.recording import record
from qcore.runtime.rounding import Rounding, has_fast_bytes


@pytest.fixture(autouse=True)
def _trials() -> Iterator[None]:
    with torch.no_grad(), trials():
        yield


WEIGHT = torch.arange(12.0).view(3, 4) / 7


def several_kinds_of_operations(x: Tensor, y: Tensor) -> list[Tensor]:
    """Views, factories, operations in place and into a part, lists, optional and infinite arguments."""
    first, second = (x @ WEIGHT).split(2, dim=1)
    buffer = torch.empty_like(first)
    torch.mul(first[:, :1], 2.5, out=buffer[:, :1])
    buffer[:, 1:] = second[:, :1]
    buffer.add_(y.amax(dim=-1, keepdim=True)).clamp_(max=6.0)
    masked = torch.where(buffer > 0, buffer, torch.full_like(buffer, -float("inf")))
    best = y.argmax(dim=-1)
    picked = y[torch.arange(len(y)), best]
    image = F.interpolate(y.view(1, 1, *y.shape), size=(9, 7), mode="bilinear", align_corners=False)
    normed = F.layer_norm(buffer, (2,), None, torch.ones(2), 1e-6)
    return [masked, picked.to(torch.bfloat16), image.sigmoid(), normed, torch.cat([first, second], 1)]


def inputs(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 3, generator=generator), torch.randn(5, 4, generator=generator)


def same(a: Tensor, b: Tensor) -> bool:
    return a.stride() == b.stride() and a.dtype is b.dtype and torch.equal(a, b)


def test_a_recording_repeats_the_function_on_other_values() -> None:
    recording = record(several_kinds_of_operations, inputs(0))
    for seed in range(5):
        expected = several_kinds_of_operations(*inputs(seed))
        got = recording(*inputs(seed))
        assert len(got) == len(expected)
        assert all(same(a, b) for a, b in zip(got, expected, strict=True))


def test_a_recording_reads_codes_where_they_lie() -> None:
    if not has_fast_bytes():
        pytest.skip("this torch turns floats into bytes in steps")
    rounding = Rounding(0.05, 3, 63)
    image = torch.rand(1, 6, 8, 8).contiguous(memory_format=torch.channels_last)
    recording = record(lambda x: [rounding.bytes(x)], [image])
    other = torch.rand(1, 6, 8, 8).contiguous(memory_format=torch.channels_last)
    assert same(recording(other)[0], rounding.bytes(other))


BEFORE = torch.zeros(3)

REFUSED: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "a value": lambda x: [x * float(x.sum())],
    "a branch": lambda x: [x if bool((x > 0).all()) else -x],
    "places of a mask": lambda x: [x[x > 0]],
    "places found": lambda x: [x.nonzero()],
    "a tensor from before, changed": lambda x: [BEFORE.add_(x)],
    "a part of one from before, changed": lambda x: [BEFORE[:2].mul_(2) + x[:2]],
    "what the interpreter does not know": lambda x: [x.view(torch.int32)],
    "an input, changed": lambda x: [x.add_(1)],
    "a part of an input, changed": lambda x: [x[:2].add_(1)],
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_depends_on_values_or_changes_other_tensors_is_refused(what: str) -> None:
    with pytest.raises(UnsupportedModuleError):
        record(REFUSED[what], [torch.tensor([1.0, 2.0, 3.0])])


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_goes_on_as_it_is(what: str) -> None:
    function = REFUSED[what]
    recorded = Recorded(function)
    for shift in range(4):
        x = torch.tensor([1.0, 2.0, 3.0]) - shift
        BEFORE.zero_()
        expected = function(x.clone())
        BEFORE.zero_()
        given = x.clone()
        assert all(torch.equal(a, b) for a, b in zip(recorded(given), expected, strict=True))
        assert torch.equal(given, x) == ("an input" not in what)


def counted() -> tuple[Recorded, list[int]]:
    """A function that counts its calls in Python, recorded."""
    calls: list[int] = []

    def function(x: Tensor, scale: float, *, more: dict[str, Any]) -> dict[str, Any]:
        calls.append(1)
        return {"sum": x * scale + more["y"][0], "name": more["name"], "nothing": None}

    return Recorded(function), calls


def test_the_third_call_of_a_kind_is_the_last_in_python() -> None:
    function, calls = counted()
    for k in range(6):
        result = function(torch.full((2,), float(k)), 3.0, more={"y": [torch.ones(2)], "name": "a"})
        assert torch.equal(result["sum"], torch.full((2,), 3.0 * k + 1))
        assert (result["name"], result["nothing"]) == ("a", None)
        assert len(calls) == min(k + 1, 3)


def test_nothing_is_tried_while_somebody_waits_for_one_answer() -> None:
    function, calls = counted()
    more = {"y": [torch.ones(2)], "name": "a"}

    def elsewhere() -> None:
        with torch.no_grad():
            function(torch.ones(2), 3.0, more=more)

    def call_elsewhere() -> None:
        thread = threading.Thread(target=elsewhere)  # a thread begins without the block's permission
        thread.start()
        thread.join()

    for _ in range(5):
        call_elsewhere()
    assert len(calls) == 5
    for _ in range(3):
        function(torch.ones(2), 3.0, more=more)
    assert len(calls) == 8
    call_elsewhere()  # what is trusted is used everywhere
    assert len(calls) == 8


def test_kinds_differ_in_shapes_types_and_everything_else() -> None:
    function, calls = counted()
    more = {"y": [torch.ones(2)], "name": "a"}
    for _ in range(4):
        function(torch.ones(2), 3.0, more=more)
    known = len(calls)
    others = [
        (torch.ones(1), 3.0, more),
        (torch.ones(2, dtype=torch.float64), 3.0, more),
        (torch.ones(4)[::2], 3.0, more),
        (torch.ones(2), 4.0, more),
        (torch.ones(2), 3.0, {**more, "name": "b"}),
        (torch.ones(2), 3, more),
    ]
    for count, (x, scale, what) in enumerate(others, start=1):
        assert torch.equal(function(x, scale, more=what)["sum"], x * scale + torch.ones(2))
        assert len(calls) == known + count
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        function(torch.ones(2), 3.0, more=more)
    finally:
        torch.set_num_threads(threads)
    assert len(calls) == known + len(others) + 1


def test_a_recording_that_does_not_repeat_the_function_is_dropped() -> None:
    calls = 0

    def changes_by_itself(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x + calls

    function = Recorded(changes_by_itself)
    assert [int(function(torch.zeros(1))) for _ in range(6)] == [1, 2, 3, 4, 5, 6]


def test_gradients_are_never_lost() -> None:
    function = Recorded(lambda x: x * 3)
    x = torch.ones(2)
    for _ in range(5):
        function(x)
    with torch.enable_grad():
        x.requires_grad_(True)
        function(x).sum().backward()
    assert torch.equal(x.grad, torch.full((2,), 3.0))


def test_several_threads_may_call() -> None:
    function = Recorded(lambda x: [several_kinds_of_operations(x, x.new_ones(5, 4) * x[:, :1])[0]])
    wrong: list[int] = []

    def call(seed: int) -> None:
        with torch.no_grad(), trials():
            for k in range(20):
                x, _ = inputs(100 * seed + k)
                expected = several_kinds_of_operations(x, x.new_ones(5, 4) * x[:, :1])[0]
                if not torch.equal(function(x)[0], expected):
                    wrong.append(seed)

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def steps(model: Any, seed: int) -> list[Tensor]:
    """All that `record_calls` covers, on random inputs."""
    generator = torch.Generator().manual_seed(seed)
    side = model.image_size
    grid, memory_width = side // 16, model.mem_dim
    backbone = model.forward_image(torch.rand(1, 3, side, side, generator=generator) * 4 - 2)
    levels = backbone["backbone_fpn"]
    top = levels[-1]
    tokens = top.flatten(2).permute(2, 0, 1)
    position = backbone["vision_pos_enc"][-1].flatten(2).permute(2, 0, 1)
    memory = torch.randn(2 * grid**2 + 2, 1, memory_width, generator=generator)
    alone = model.memory_attention.attend_itself(tokens, position)
    seen = model.memory_attention(
        curr=[tokens], curr_pos=[position], memory=memory, memory_pos=0.1 * memory, num_obj_ptr_tokens=2,
        self_attended=alone,
    )  # fmt: skip
    inputs = {
        "backbone_features": seen.permute(1, 2, 0).reshape(top.shape),
        "high_res_features": levels[:2],
    }
    heads = model._forward_sam_heads(**inputs)
    with_token = getattr(model, HEADS_AND_TOKEN)(**inputs)
    encoded, positions = model._encode_new_memory(
        [tokens], [(grid, grid)], heads[4], heads[6], is_mask_from_pts=False
    )
    given = (x for x in (*heads, *with_token) if isinstance(x, Tensor))
    return [*levels, alone, seen, *given, encoded, *positions]


@pytest.mark.parametrize("name", ["embedded", "embedded-fp16"])
def test_the_embedded_models_steps_are_recorded_exactly(name: str) -> None:
    recorded, plain = load_model(name), load_model(name)
    choice = True  # the same kernels for both, whatever is measured
    lower(recorded, choice=choice)
    lower(plain, choice=choice)
    call_plainly(plain)
    for seed in range(4):
        assert all(same(a, b) for a, b in zip(steps(recorded, seed), steps(plain, seed), strict=True))
    owners = (recorded, recorded.memory_attention)
    functions = [f for owner in owners for f in vars(owner).values() if isinstance(f, Recorded)]
    assert len(functions) == 6
    assert all(kind.is_trusted for function in functions for kind in function._kinds.values())


def test_small_models_are_recorded_when_they_are_lowered() -> None:
    model = build_embedded(EmbeddedArch(input_size=64)).eval()
    assert not any(isinstance(value, Recorded) for value in vars(model).values())
    lower(model)
    first = model.forward_image
    assert isinstance(first, Recorded)
    record_calls(model)
    assert model.forward_image is first
    call_plainly(model)
    assert not any(isinstance(value, Recorded) for value in vars(model).values())
    large = build_embedded(EmbeddedArch(input_size=16 * (int(MOST_POSITIONS**0.5) + 2))).eval()
    lower(large)
    assert not isinstance(large.forward_image, Recorded)


def test_a_recording_is_made_without_torch_s_compiler() -> None:
    """Importing it takes a second, which the first frame of a pass would wait for."""
    script = (
        "import sys, torch; from qcore.runtime.recording import record;"
        "double = record(lambda x: [x + x], [torch.ones(3)]);"
        "print(double(torch.ones(3))[0].tolist(), 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[2.0, 2.0, 2.0] False"

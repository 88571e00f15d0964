"""The prompts file: what it means, and that anything odd in it is refused with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.cli.errors import CommandError
from app.cli.prompts_file import PromptedObject, read_prompts
from qcore import masks
from qcore.tracking.types import Prompt

SIZE_HW = (30, 40)
FRAMES = 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def read(folder: Path, document: Any) -> list[PromptedObject]:
    path = folder / "prompts.json"
    text = document if isinstance(document, str) else json.dumps(document)
    path.write_text(text, encoding="utf-8")
    return read_prompts(path, FRAMES, SIZE_HW)


def one(*prompts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"objects": [{"id": 1, "prompts": list(prompts), **fields}]}


def some_mask() -> np.ndarray:
    mask = np.zeros(SIZE_HW, np.uint8)
    mask[5:20, 8:30] = 1
    return mask


def test_boxes_points_and_masks_are_read(folder: Path) -> None:
    rle = masks.encode(some_mask())
    document = {
        "objects": [
            {
                "id": 7,
                "name": "dog",
                "class": "animal",
                "prompts": [
                    {"frame": 9, "mask": masks.to_coco(rle)},
                    {"frame": 0, "box": [1, 2, 30.5, 20]},
                    {"frame": 0, "points": [[3, 4], [5.5, 6]], "labels": [1, 0]},
                ],
            },
            {"id": 2, "prompts": [{"frame": 3, "box": [0, 0, 5, 5], "points": [[1, 1]], "labels": [1]}]},
        ]
    }
    assert read(folder, document) == [
        PromptedObject(
            7,
            "dog",
            "animal",
            (
                Prompt(0, 7, ((3.0, 4.0), (5.5, 6.0)), (1, 0), (1.0, 2.0, 30.5, 20.0)),
                Prompt(9, 7, mask=rle),
            ),
        ),
        PromptedObject(2, "Object 2", None, (Prompt(3, 2, ((1.0, 1.0),), (1,), (0.0, 0.0, 5.0, 5.0)),)),
    ]


@pytest.mark.parametrize("value", [1, 255])
@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_a_png_beside_the_file_is_a_mask(folder: Path, mode: str, value: int) -> None:
    (folder / "masks").mkdir()
    image = Image.fromarray(some_mask() * value)
    if mode == "P":
        image = image.copy()
        image.putpalette([0, 0, 0, 128, 0, 0])
    elif mode == "1":
        image = Image.fromarray(some_mask().astype(bool))
    image.save(folder / "masks" / "a.png")
    (found,) = read(folder, one({"frame": 4, "mask": "masks/a.png"}))
    assert found.prompts[0].mask == masks.encode(some_mask())


def test_a_box_that_reaches_over_the_edge_is_clipped(folder: Path) -> None:
    (found,) = read(folder, one({"frame": 0, "box": [-3, 2, 50, 31]}))
    assert found.prompts[0].box_xyxy == (0.0, 2.0, 40.0, 30.0)


BOX = {"frame": 0, "box": [1, 1, 5, 5]}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("", "line 1 is not valid JSON"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not a JSON object"),
        ({}, "lacks “objects”"),
        ({"objects": []}, "at least one object"),
        ({"objects": {}}, "at least one object"),
        ({"objects": [3]}, "object 1 is not a JSON object"),
        ({"objects": [{"id": 1, "prompts": [BOX]}], "extra": 1}, "unknown entry “extra”"),
        ({"objects": [{"id": 1, "prompts": [BOX]}] * 2}, "same id"),
        ({"objects": [{"prompts": [BOX]}]}, "lacks “id”"),
        (one(), "at least one prompt"),
        (one(BOX, id=0), "“id” of object 1"),
        (one(BOX, id=True), "“id” of object 1"),
        (one(BOX, id=1.0), "“id” of object 1"),
        (one(BOX, id="1"), "“id” of object 1"),
        (one(BOX, name=""), "“name” of object 1"),
        (one(BOX, name=5), "“name” of object 1"),
        (one(BOX, **{"class": None}), "“class” of object 1"),
        (one(BOX, colour="red"), "unknown entry “colour”"),
        (one({"box": [1, 1, 5, 5]}), "lacks “frame”"),
        (one({"frame": 10, "box": [1, 1, 5, 5]}), "from 0 to 9"),
        (one({"frame": -1, "box": [1, 1, 5, 5]}), "from 0 to 9"),
        (one({"frame": 0.0, "box": [1, 1, 5, 5]}), "from 0 to 9"),
        (one({"frame": 0}), "neither a box, nor points, nor a mask"),
        (one({"frame": 0, "boxes": [1, 1, 5, 5]}), "unknown entry “boxes”"),
        (one({"frame": 0, "box": [1, 1, 5]}), "must be 4 numbers"),
        (one({"frame": 0, "box": [1, 1, 5, "5"]}), "must be 4 numbers"),
        (one({"frame": 0, "box": [5, 5, 1, 1]}), "with some area"),
        (one({"frame": 0, "box": [50, 0, 60, 9]}), "outside the 40 x 30 frame"),
        ('{"objects": [{"id": 1, "prompts": [{"frame": 0, "box": [0, 0, NaN, 1]}]}]}', "must be 4 numbers"),
        ('{"objects": [{"id": 1, "prompts": [{"frame": 0, "box": [0, 0, 1e999, 1]}]}]}', "must be 4 numbers"),
        (one(BOX, BOX), "two boxes on frame 0"),
        (one({"frame": 0, "points": [], "labels": []}), "1 to 1000 points"),
        (one({"frame": 0, "points": [[1, 2]]}), "needs one of “labels”"),
        (one({"frame": 0, "points": [[1, 2]], "labels": [1, 0]}), "needs one of “labels”"),
        (one({"frame": 0, "points": [[1, 2]], "labels": [2]}), "from 0 to 1"),
        (one({"frame": 0, "points": [[1, 2]], "labels": [True]}), "from 0 to 1"),
        (one({"frame": 0, "points": [[1, 2, 3]], "labels": [1]}), "must be 2 numbers"),
        (
            one({"frame": 0, "points": [[41, 2]], "labels": [1]}),
            "a point of prompt 1 of object 1 lies",
        ),
        (one({**BOX, "labels": [1]}), "labels without points"),
        (one({"frame": 0, "mask": 3}), "must be an RLE or the path of a PNG"),
        (one({"frame": 0, "mask": {"size": [30, 40]}}), "not a COCO RLE"),
        (one({"frame": 0, "mask": {"size": [3, 4], "counts": [12]}}), "a mask is 4 x 3 pixels"),
        (one({"frame": 0, "mask": {"size": [30, 40], "counts": [5]}}), "do not fill its size"),
        (one({"frame": 0, "mask": "nothing.png"}), "no such file"),
        (one({**BOX, "mask": {"size": [30, 40], "counts": [1200]}}), "a mask beside a box"),
        (
            one(BOX, {"frame": 0, "mask": {"size": [30, 40], "counts": [1200]}}),
            "a mask beside other prompts on frame 0",
        ),
    ],
)
def test_anything_odd_is_refused_with_its_place(folder: Path, document: Any, words: str) -> None:
    with pytest.raises(CommandError) as caught:
        read(folder, document)
    assert words in str(caught.value)
    assert str(caught.value).startswith("The prompts file prompts.json cannot be used: ")
    assert "\n" not in str(caught.value)


def test_odd_pngs_are_refused(folder: Path) -> None:
    document = one({"frame": 0, "mask": "a.png"})
    Image.fromarray(some_mask()[:10]).save(folder / "a.png")
    with pytest.raises(CommandError, match="is 40 x 10"):
        read(folder, document)
    Image.fromarray(np.stack([some_mask()] * 3, 2)).save(folder / "a.png")
    with pytest.raises(CommandError, match="colour picture"):
        read(folder, document)
    two = some_mask()
    two[0, 0] = 2
    Image.fromarray(two).save(folder / "a.png")
    with pytest.raises(CommandError, match="3 different values"):
        read(folder, document)
    Image.fromarray(some_mask()).save(folder / "a.png", format="JPEG")
    with pytest.raises(CommandError, match="not a PNG"):
        read(folder, document)
    Image.fromarray(np.random.default_rng(0).integers(0, 2, SIZE_HW, dtype=np.uint8)).save(folder / "a.png")
    content = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(CommandError, match="cannot be read"):
        read(folder, document)


def test_an_unreadable_file_is_one_sentence(folder: Path) -> None:
    with pytest.raises(CommandError, match="cannot be read: No such file"):
        read_prompts(folder / "none.json", FRAMES, SIZE_HW)
    (folder / "latin.json").write_bytes(b'{"objects": "\xe9"}')
    with pytest.raises(CommandError, match="not UTF-8"):
        read_prompts(folder / "latin.json", FRAMES, SIZE_HW)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 50) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["objects", "id", "name", "prompts", "frame", "box", "points", "labels", "mask"]),
            inner,
        )
    ),
    max_leaves=25,
)


@given(json_values)
def test_no_json_document_gets_past_the_checks_or_crashes_them(
    tmp_path_factory: pytest.TempPathFactory, document: Any
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "prompts.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    try:
        found = read_prompts(path, FRAMES, SIZE_HW)
    except CommandError:
        return
    for prompt in (prompt for item in found for prompt in item.prompts):
        assert not prompt.is_empty
        assert 0 <= prompt.frame_index < FRAMES

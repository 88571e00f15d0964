"""Command line of the training: ``python -m qcore.training VERB``; see the README beside this file."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from qcore.models.doubt_head import doubt_head_of
from qcore.models.embedded import EmbeddedArch
from qcore.models.errors import ModelError
from qcore.models.loading import load_model
from qcore.runtime import lower
from qcore.training import sources
from qcore.training.doubt_fit import collect_doubts, fit_doubt
from qcore.training.errors import TrainingError
from qcore.training.pack import PackWriter, TrainingPack
from qcore.training.presence import measure_presence
from qcore.training.presence_head import collect, exit_round, fit_head, training_clips, whole_clips
from qcore.training.recipes import RECIPES, Recipe
from qcore.training.synthesis import ClipGenerator, SynthesisConfig
from qcore.training.trainer import Budget, RunConfig, Trainer, averaged_weights, start_ranks
from qcore.training.weights import (
    DOUBT_LAYERS,
    PRESENCE_LAYERS,
    arch_of,
    blend,
    load_with_doubt,
    save_weights,
    save_with_doubt,
    shift_logit,
    shift_logit_in_file,
    start_model,
)

log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; 0 when it worked, 1 with one sentence on stderr when it did not."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        result: int = args.run(args)
    except (TrainingError, ModelError) as error:
        print(error, file=sys.stderr)
        return 1
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m qcore.training", description=__doc__)
    verbs = parser.add_subparsers(required=True)

    pack = verbs.add_parser("pack", help="gather training material into one file")
    pack.add_argument("--out", type=Path, required=True)
    pack.add_argument("--davis-root", type=Path, action="append", default=[], help="labelled clips")
    pack.add_argument("--coco-root", type=Path, action="append", default=[], help="instance polygons")
    pack.add_argument("--masks-root", type=Path, action="append", default=[], help="folders images and masks")
    pack.add_argument("--stamps-root", type=Path, action="append", default=[], help="PNG cut-outs with alpha")
    pack.add_argument("--backgrounds-root", type=Path, action="append", default=[], help="photographs")
    pack.add_argument("--max-side", type=int, default=512)
    pack.add_argument("--quality", type=int, default=88, help="of photographs, 1-100")
    pack.add_argument("--compact", action="store_true", help="WebP and hard masks: half the size")
    pack.add_argument("--clip-step", type=int, default=1, help="keep each n-th frame of labelled clips")
    pack.add_argument("--limit-mib", type=float, help="fail rather than write a larger file")
    pack.set_defaults(run=_pack)

    train = verbs.add_parser("train", help="train, or go on with a training")
    train.add_argument("--pack", type=Path, action="append", required=True, help="repeat for several")
    train.add_argument(
        "--out", type=Path, required=True, help="folder of the checkpoints; resumed if not empty"
    )
    train.add_argument("--recipe", choices=sorted(RECIPES), required=True)
    train.add_argument("--steps", type=int, help="length of the whole training")
    train.add_argument("--minutes", type=float, help="length of the whole training, in place of steps")
    train.add_argument("--stop-after", type=float, metavar="MINUTES", help="stop this part, to be resumed")
    train.add_argument("--start", type=Path, help="weights file to start from")
    train.add_argument("--trunk", type=Path, help="ImageNet weights of the trunk, for a new model")
    train.add_argument("--arch", default="{}", help="JSON of a new model's dimensions")
    train.add_argument("--image-size", type=int, help="in place of the recipe's")
    train.add_argument("--learning-rate", type=float, help="in place of the recipe's")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    train.add_argument("--workers", type=int, default=0)
    train.add_argument("--half", action="store_true", help="compute in bfloat16")
    train.add_argument("--threads", type=int, default=1, help="of torch, for each rank on a CPU")
    train.add_argument("--rank", type=int, default=0)
    train.add_argument("--ranks", type=int, default=1)
    train.add_argument("--port", type=int, default=29531, help="where ranks of this machine meet")
    train.add_argument("--checkpoint-minutes", type=float, default=5.0)
    train.set_defaults(run=_train)

    export = verbs.add_parser("export", help="write a checkpoint's averaged weights as a model file")
    export.add_argument("checkpoint", type=Path)
    export.add_argument("--out", type=Path, required=True)
    export.set_defaults(run=_export)

    between = verbs.add_parser("blend", help="write the weights between a model and its refinement")
    between.add_argument("first", type=Path)
    between.add_argument("second", type=Path)
    between.add_argument("--share", type=float, default=0.5, help="of the second model, 0..1")
    between.add_argument("--presence-shift", type=float, default=0.0, help="added to the presence logit")
    between.add_argument("--out", type=Path, required=True)
    between.set_defaults(run=_blend)

    presence = verbs.add_parser("presence", help="measure whether a model notices that objects leave")
    presence.add_argument("--model", default="embedded-fp16")
    presence.add_argument("--davis-root", type=Path, required=True)
    presence.add_argument("--frames", type=int, default=36, help="of each synthetic clip")
    presence.add_argument(
        "--kernels", action="store_true", help="on this machine's fast kernels, as the program computes"
    )
    presence.add_argument("--json", action="store_true")
    presence.set_defaults(run=_presence)

    fit = verbs.add_parser("fit-presence", help="train only the head that says whether the object is in view")
    fit.add_argument("start", type=Path, help="weights file")
    fit.add_argument("--davis-root", type=Path, required=True, help="of training data")
    fit.add_argument("--rounds", type=int, default=8, help="synthetic clips a sequence")
    fit.add_argument("--frames", type=int, default=36, help="of each synthetic clip")
    fit.add_argument("--steps", type=int, default=100)
    fit.add_argument("--presence-shift", type=float, default=0.0, help="added to the presence logit")
    fit.add_argument("--seed", type=int, default=0)
    fit.add_argument("--out", type=Path, required=True)
    fit.set_defaults(run=_fit_presence)

    doubt = verbs.add_parser(
        "fit-doubt", help="train only the head that says which masks are not to be shown"
    )
    doubt.add_argument("start", type=Path, help="weights file or bundle; it does the tracking")
    doubt.add_argument("--davis-root", type=Path, required=True, help="of training data")
    doubt.add_argument("--rounds", type=int, default=8, help="synthetic clips a sequence")
    doubt.add_argument("--frames", type=int, default=36, help="of each synthetic clip")
    doubt.add_argument("--shift", type=float, default=0.0, help="added to the doubt")
    doubt.add_argument("--out", type=Path, required=True)
    doubt.add_argument("--original", type=Path, help="of a bundle: the weights file, which gets the head too")
    doubt.add_argument("--original-out", type=Path, help="where that one goes")
    doubt.set_defaults(run=_fit_doubt)

    for head, layers in (("presence", PRESENCE_LAYERS), ("doubt", DOUBT_LAYERS)):
        shift = verbs.add_parser(f"shift-{head}", help=f"move the threshold of {head}, of a bundle too")
        shift.add_argument("model", type=Path, help="weights file or bundle")
        shift.add_argument("--by", type=float, required=True, help=f"added to the {head} logit")
        shift.add_argument("--original", type=Path, help="of a bundle: the weights file shifted alike")
        shift.add_argument("--out", type=Path, required=True)
        shift.set_defaults(run=_shift, layers=layers)

    preview = verbs.add_parser("preview", help="draw some synthetic clips into a picture")
    preview.add_argument("--pack", type=Path, action="append", required=True)
    preview.add_argument("--out", type=Path, required=True)
    preview.add_argument("--seed", type=int, default=0)
    preview.set_defaults(run=_preview)
    return parser


def _pack(args: argparse.Namespace) -> int:
    writer = PackWriter(args.max_side, args.quality, args.compact)
    for root in args.davis_root:
        log.info("%s: %d clips", root, sources.add_davis(writer, root, args.clip_step))
    for root in args.coco_root:
        log.info("%s: %d photographs", root, sources.add_coco(writer, root))
    for root in args.masks_root:
        log.info("%s: %d photographs", root, sources.add_mask_folder(writer, root, root.name))
    for root in args.stamps_root:
        log.info("%s: %d cut-outs", root, sources.add_stamps(writer, root))
    for root in args.backgrounds_root:
        log.info("%s: %d backgrounds", root, sources.add_backgrounds(writer, root))
    mebibytes = writer.size_bytes / 2**20
    if args.limit_mib is not None and mebibytes > args.limit_mib:
        raise TrainingError(
            f"The pack would take {mebibytes:.0f} MiB: lower --max-side or --quality, or raise --clip-step."
        )
    log.info("%s: %.1f MiB", args.out, writer.write(args.out) / 2**20)
    return 0


def _train(args: argparse.Namespace) -> int:
    if args.device == "cpu":
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    recipe = _recipe(args)
    arch = arch_of(args.start) if args.start is not None else EmbeddedArch.from_json(args.arch)
    config = RunConfig(
        out=args.out,
        budget=Budget(args.steps, args.minutes),
        seed=args.seed,
        device=args.device,
        workers=args.workers,
        half_precision=args.half,
        rank=args.rank,
        ranks=args.ranks,
        checkpoint_minutes=args.checkpoint_minutes,
        stop_after_minutes=args.stop_after,
    )
    start_ranks(config, args.port)
    model = start_model(args.start, args.trunk, arch, recipe.image_size)
    trainer = Trainer(model, arch, recipe, TrainingPack(*args.pack), config)
    if trainer.resume():
        log.info("resumed at step %d", trainer.step)
    finished = trainer.run()
    log.info("%s after %d steps", "finished" if finished else "stopped", trainer.step)
    return 0


def _recipe(args: argparse.Namespace) -> Recipe:
    from dataclasses import replace

    recipe = RECIPES[args.recipe]
    if args.image_size is not None:
        synthesis = replace(recipe.synthesis, size=args.image_size)
        recipe = replace(recipe, image_size=args.image_size, synthesis=synthesis)
    if args.learning_rate is not None:
        recipe = replace(recipe, learning_rate=args.learning_rate)
    return recipe


def _export(args: argparse.Namespace) -> int:
    state, arch, steps, seconds = averaged_weights(args.checkpoint)
    save_weights(state, arch, args.out, {"steps": steps, "seconds": round(seconds)})
    log.info("%s: %d steps, %.0f minutes", args.out, steps, seconds / 60)
    return 0


def _blend(args: argparse.Namespace) -> int:
    state, arch = blend(args.first, args.second, args.share)
    shift_logit(state, PRESENCE_LAYERS, args.presence_shift)
    save_weights(state, arch, args.out, {"share": args.share, "presence_shift": args.presence_shift})
    return 0


def _presence(args: argparse.Namespace) -> int:
    report = measure_presence(args.model, args.davis_root, args.frames, args.kernels)
    if args.json:
        print(json.dumps(report.to_dict()))
    else:
        print(report.text())
    return 0


def _fit_presence(args: argparse.Namespace) -> int:
    tracking = load_model(args.start)
    lower(tracking)
    samples = collect(tracking, training_clips(args.davis_root, args.frames, args.rounds))
    log.info("%d frames, in view on %d", len(samples.in_view_n), int(samples.in_view_n.sum()))
    model = load_model(args.start)
    fit_head(model.sam_mask_decoder.pred_obj_score_head, samples, args.steps, args.seed)
    state = model.state_dict()
    shift_logit(state, PRESENCE_LAYERS, args.presence_shift)
    notes = {"presence_rounds": args.rounds, "presence_shift": args.presence_shift, "seed": args.seed}
    save_weights(state, arch_of(args.start), args.out, notes)
    return 0


def _fit_doubt(args: argparse.Namespace) -> int:
    model = load_with_doubt(args.start)
    is_bundle = hasattr(model, "bundle_header")
    if is_bundle != (args.original is not None) or is_bundle != (args.original_out is not None):
        raise TrainingError("A bundle, and only a bundle, needs --original and --original-out.")
    lower(model)
    whole = collect_doubts(model, whole_clips(args.davis_root))
    rounds = [
        collect_doubts(model, exit_round(args.davis_root, args.frames, number))
        for number in range(1, args.rounds + 1)
    ]
    log.info("%d and %d frames", len(whole.in_view_n), sum(len(one.in_view_n) for one in rounds))
    head = doubt_head_of(model)
    assert head is not None
    fit_doubt(head, whole, rounds, args.shift)
    if is_bundle:
        save_with_doubt(args.original, head, args.original_out)
    save_with_doubt(args.start, head, args.out, args.original_out)
    return 0


def _shift(args: argparse.Namespace) -> int:
    shift_logit_in_file(args.model, args.layers, args.by, args.out, args.original)
    return 0


def _preview(args: argparse.Namespace) -> int:
    generator = ClipGenerator(TrainingPack(*args.pack), SynthesisConfig(), args.seed)
    rows = []
    for _ in range(8):
        clip = generator.clip(6, 2)
        pictures = []
        for t, frame in enumerate(clip.frames_thwc):
            picture = frame.copy()
            for mask, colour in zip(clip.masks_kthw[:, t], ((255, 60, 60), (60, 255, 60))):
                edges, _ = cv2.findContours(
                    (mask > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
                )
                cv2.drawContours(picture, edges, -1, colour, 2)
            pictures.append(cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA))
        rows.append(np.hstack(pictures))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(args.out), np.vstack(rows)[:, :, ::-1]):
        raise TrainingError(f"The picture {args.out} cannot be written.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

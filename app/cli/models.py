"""`qminisam2 models`: list, download, import, verify, measure and remove models."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from app.cli.console import Console
from app.cli.tracking import DEVICES, choose_device
from qcore.models.install import disk_use, download_model, import_model, remove_model, verify_model
from qcore.models.registry import ModelStatus, installed_path, model_statuses
from resources import resource_path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="show all models and which are installed")
    download = actions.add_parser("download", help="download a model; an interrupted download continues")
    download.add_argument("id", help="id from 'qminisam2 models list'")
    importing = actions.add_parser("import", help="check a model file and copy it to the installed models")
    importing.add_argument("file", type=Path, help="a .pt checkpoint of SAM 2.1, or a .safetensors file")
    importing.add_argument("--name", help="id to give it (default: the file's name)")
    verify = actions.add_parser("verify", help="check installed models")
    verify.add_argument("id", nargs="?", help="one model (default: all installed ones)")
    removing = actions.add_parser("remove", help="delete a downloaded or imported model")
    removing.add_argument("id", help="id from 'qminisam2 models list'")
    measure = actions.add_parser("measure", help="time a model on this machine")
    measure.add_argument("id", help="id from 'qminisam2 models list', or a model file")
    measure.add_argument("--clip", type=Path, help="the video to track in (default: the sample clip)")
    measure.add_argument("--device", choices=DEVICES, default="auto")
    for action in (listing, download, importing, verify, removing, measure):
        action.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it; the exit code."""
    action: str = args.action
    if action == "list":
        _list(console)
    elif action == "download":
        with console.progress(f"Downloading {args.id}", None, "B") as progress:
            path = download_model(args.id, progress.set)
        console.line(f"{args.id} is installed: {path}")
        console.result({"id": args.id, "path": str(path)})
    elif action == "import":
        spec = import_model(args.file, args.name)
        path_or_none = installed_path(spec)
        console.line(f"{spec.id} is installed: {path_or_none}")
        console.result({"id": spec.id, "path": str(path_or_none)})
    elif action == "verify":
        wanted = [args.id] if args.id else [row.id for row in model_statuses() if row.installed]
        for model_id in wanted:
            with console.progress(f"Checking {model_id}", None, "B") as progress:
                verify_model(model_id, progress.set)
            console.line(f"{model_id} is intact.")
        console.result([{"id": model_id, "intact": True} for model_id in wanted])
    elif action == "measure":
        _measure(args, console)
    else:
        freed = remove_model(args.id)
        console.line(f"{args.id} was removed ({_megabytes(freed)} freed).")
        console.result({"id": args.id, "freed_bytes": freed})
    return 0


def _list(console: Console) -> None:
    rows = model_statuses()
    console.result([dataclasses.asdict(row) for row in rows])
    width = max(len(row.id) for row in rows)
    for row in rows:
        console.line(
            f"{row.id:<{width}}  {_state(row):<9}  {row.precision:<9}  "
            f"{_megabytes(row.size_bytes):>9}  {row.licence}"
        )
    console.line()
    use = disk_use()
    console.line(
        f"Downloaded and imported models lie in {use.folder}: {_megabytes(use.used)}, "
        f"{_megabytes(use.free)} are free"
    )
    missing = next((row for row in rows if not row.installed), None)
    if missing is not None:
        console.line(f"Install one with: qminisam2 models download {missing.id}")


def _state(row: ModelStatus) -> str:
    if row.installed:
        return "installed"
    if row.partial_bytes and row.size_bytes:
        return f"{100 * row.partial_bytes // row.size_bytes} % here"
    return "-"


def _measure(args: argparse.Namespace, console: Console) -> None:
    # torch is imported only for this action: the others answer at once
    from qcore.evaluation.model_speed import FRAMES, measure_model
    from qcore.video import open_source

    clip = args.clip or next(iter(sorted(resource_path("sample").glob("*.mp4"))))
    with open_source(clip) as source:
        frames = [source[i] for i in range(min(FRAMES, len(source)))]
    if len(frames) < FRAMES:  # a short clip is played to and fro
        frames = (frames + frames[-2:0:-1]) * FRAMES
    speed = measure_model(args.id, frames[:FRAMES], choose_device(args.device))
    console.line(
        f"{args.id}: {speed.frame_ms:.0f} ms a frame ({speed.encode_ms:.0f} encoding, {speed.track_ms:.0f} "
        f"an object), {speed.peak_rss_mb:.0f} MiB, {speed.device} {speed.arithmetic}, "
        f"{speed.threads} threads"
    )
    console.result({"id": args.id, "speed": speed.to_json()})


def _megabytes(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e6:.1f} MB"

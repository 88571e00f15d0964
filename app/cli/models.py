"""`qminisam2 models`: list, download, import, verify and remove models."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from app.cli.console import Console
from qcore.models.install import download_model, import_model, remove_model, verify_model
from qcore.models.registry import installed_path, model_statuses, models_dir


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
    for action in (listing, download, importing, verify, removing):
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
            f"{row.id:<{width}}  {'installed' if row.installed else '-':<9}  {row.precision:<9}  "
            f"{_megabytes(row.size_bytes):>9}  {row.licence}"
        )
    console.line()
    console.line(f"Downloaded and imported models lie in {models_dir()}")
    missing = next((row for row in rows if not row.installed), None)
    if missing is not None:
        console.line(f"Install one with: qminisam2 models download {missing.id}")


def _megabytes(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e6:.1f} MB"

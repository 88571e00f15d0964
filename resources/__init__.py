"""Files shipped with the program: the embedded model, sample clip, icons and theme."""

from pathlib import Path


def resource_path(name: str) -> Path:
    """Absolute path of a shipped file, e.g. ``resource_path("models/embedded.safetensors")``.

    Raises:
        FileNotFoundError: the installation lacks the file.
    """
    path = Path(__file__).parent / name
    if not path.exists():
        raise FileNotFoundError(f"The installation lacks {name!r}: reinstall Q-MiniSAM2 Annotator.")
    return path

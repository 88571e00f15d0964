"""Which system libraries of Qt a Linux machine lacks, and the command that installs them.

Uses the standard library alone: the set-up script runs it before anything of ours is known to work.
"""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import struct
import sys
from pathlib import Path

# library a Qt plugin is linked to -> package on (Debian and Ubuntu, Fedora, Arch)
PACKAGES: dict[str, tuple[str, str, str]] = {
    "libEGL.so.1": ("libegl1", "libglvnd-egl", "libglvnd"),
    "libGL.so.1": ("libgl1", "libglvnd-glx", "libglvnd"),
    "libOpenGL.so.0": ("libopengl0", "libglvnd-opengl", "libglvnd"),
    "libxkbcommon.so.0": ("libxkbcommon0", "libxkbcommon", "libxkbcommon"),
    "libxkbcommon-x11.so.0": ("libxkbcommon-x11-0", "libxkbcommon-x11", "libxkbcommon-x11"),
    "libX11.so.6": ("libx11-6", "libX11", "libx11"),
    "libX11-xcb.so.1": ("libx11-xcb1", "libX11-xcb", "libx11"),
    "libxcb.so.1": ("libxcb1", "libxcb", "libxcb"),
    "libxcb-cursor.so.0": ("libxcb-cursor0", "xcb-util-cursor", "xcb-util-cursor"),
    "libxcb-icccm.so.4": ("libxcb-icccm4", "xcb-util-wm", "xcb-util-wm"),
    "libxcb-image.so.0": ("libxcb-image0", "xcb-util-image", "xcb-util-image"),
    "libxcb-keysyms.so.1": ("libxcb-keysyms1", "xcb-util-keysyms", "xcb-util-keysyms"),
    "libxcb-render-util.so.0": ("libxcb-render-util0", "xcb-util-renderutil", "xcb-util-renderutil"),
    "libxcb-randr.so.0": ("libxcb-randr0", "libxcb", "libxcb"),
    "libxcb-render.so.0": ("libxcb-render0", "libxcb", "libxcb"),
    "libxcb-shape.so.0": ("libxcb-shape0", "libxcb", "libxcb"),
    "libxcb-shm.so.0": ("libxcb-shm0", "libxcb", "libxcb"),
    "libxcb-sync.so.1": ("libxcb-sync1", "libxcb", "libxcb"),
    "libxcb-xfixes.so.0": ("libxcb-xfixes0", "libxcb", "libxcb"),
    "libxcb-xinerama.so.0": ("libxcb-xinerama0", "libxcb", "libxcb"),
    "libxcb-xkb.so.1": ("libxcb-xkb1", "libxcb", "libxcb"),
    "libdbus-1.so.3": ("libdbus-1-3", "dbus-libs", "dbus"),
    "libfontconfig.so.1": ("libfontconfig1", "fontconfig", "fontconfig"),
    "libfreetype.so.6": ("libfreetype6", "freetype", "freetype2"),
    "libglib-2.0.so.0": ("libglib2.0-0", "glib2", "glib2"),
    "libgthread-2.0.so.0": ("libglib2.0-0", "glib2", "glib2"),
    "libz.so.1": ("zlib1g", "zlib", "zlib"),
}

# modules and plugins the window is made of, relative to the PySide6 package
WINDOW_PARTS = (
    "Qt/lib/libQt6Gui.so.6",
    "Qt/lib/libQt6Widgets.so.6",
    "Qt/lib/libQt6XcbQpa.so.6",
    "Qt/plugins/platforms/libqxcb.so",
)
HEADLESS_PARTS = (
    "Qt/lib/libQt6Gui.so.6",
    "Qt/lib/libQt6Widgets.so.6",
    "Qt/plugins/platforms/libqoffscreen.so",
)


def needed_libraries(path: Path) -> list[str]:
    """Names in the DT_NEEDED entries of a 64-bit little-endian ELF file; empty for anything else."""
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        return []
    section_offset = struct.unpack_from("<Q", data, 0x28)[0]
    entry_size, count = struct.unpack_from("<HH", data, 0x3A)
    sections = [
        struct.unpack_from("<IIQQQQIIQQ", data, section_offset + i * entry_size) for i in range(count)
    ]
    for section in sections:
        if section[1] != 6:  # SHT_DYNAMIC
            continue
        strings = sections[section[6]][4]
        names = []
        for position in range(section[4], section[4] + section[5], 16):
            tag, value = struct.unpack_from("<qQ", data, position)
            if tag == 1:  # DT_NEEDED
                end = data.index(b"\0", strings + value)
                names.append(data[strings + value : end].decode())
        return names
    return []


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def missing_libraries(window: bool = True) -> list[str]:
    """System libraries that Qt needs and the machine lacks, sorted; always empty off Linux.

    Args:
        window: check what a real X11 window needs; otherwise only what offscreen drawing needs.
    """
    spec = importlib.util.find_spec("PySide6") if sys.platform == "linux" else None
    if spec is None or spec.origin is None:
        return []
    root = Path(spec.origin).parent
    shipped = root / "Qt" / "lib"
    names = {
        name
        for part in (WINDOW_PARTS if window else HEADLESS_PARTS)
        if (root / part).exists()
        for name in needed_libraries(root / part)
        if not (shipped / name).exists()
    }
    return sorted(name for name in names if not _loads(name))


def install_command(missing: list[str]) -> str:
    """The command that installs the missing libraries with the package manager found here."""
    managers = (
        ("apt-get", "sudo apt-get install"),
        ("dnf", "sudo dnf install"),
        ("pacman", "sudo pacman -S"),
    )
    column, command = next(
        ((i, text) for i, (tool, text) in enumerate(managers) if shutil.which(tool)), (0, managers[0][1])
    )
    packages = sorted({PACKAGES[name][column] if name in PACKAGES else name for name in missing})
    return f"{command} {' '.join(packages)}"


def main(arguments: list[str]) -> int:
    """Print one sentence about missing libraries; exit code 1 when there are any."""
    missing = missing_libraries(window="--headless" not in arguments)
    if missing:
        print(f"Qt needs system libraries that are missing ({', '.join(missing)}). Install them with:")
        print(f"  {install_command(missing)}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What this process may take: bytes of memory, and files that end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import PpvaeError, try_one_of

MEMORY_VARIABLE = "PPVAE_MEMORY"
"""The environment variable with the bytes that ppvae may count on, "64GB" for instance."""

_UNKNOWN_MEMORY = 8 * 10**9  # where the system does not say
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{unit}B": size for unit, size in _UNITS.items() if unit}
_UNITS |= {f"{unit}IB": 2 ** (10 * power) for power, unit in enumerate("KMGT", start=1)}

_KINDS = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def memory_limit() -> int:
    """Bytes that this process may take: ``PPVAE_MEMORY``, else the least of the machine's and the system's limits.

    Raises:
        PpvaeError: the variable holds no number of bytes.
    """
    text = os.environ.get(MEMORY_VARIABLE, "").strip()
    if not text:
        found = [size for size in (_machine(), _control_group(), _address_space()) if size is not None]
        return min(found, default=_UNKNOWN_MEMORY)
    number = text.rstrip("KMGTIBkmgtib ")
    try:
        size = int(float(number) * _UNITS[text[len(number) :].strip().upper()])
    except (KeyError, ValueError, OverflowError):
        size = 0
    if size < 1:
        raise PpvaeError(f"{MEMORY_VARIABLE}: expected bytes, as 64GB or 500MB, found {text!r}")
    return size


def memory_remedy(size: int) -> str:
    """The remedy of an error that says that so many bytes of memory are more than the limit."""
    return f"{MEMORY_VARIABLE}={-(-size // 10**9)}GB in the environment, on a machine that has them"


def in_words(size: int) -> str:
    """Bytes for people.

    >>> in_words(16_000_000_000), in_words(999)
    ('16.0 GB', '999 bytes')
    """
    for unit in ("TB", "GB", "MB", "kB"):
        scale = _UNITS[unit.upper()]
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size} bytes"


def irregular(path: Path) -> str | None:
    """What stands at a path if it is no file whose end is known, "a FIFO" for instance; None for a file, or nothing.

    To open a FIFO waits for a writer, and a device may never end: both are for asking before.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # absent, or a name that no file can have: to open it says so
        return None
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), None)


def require_room(size: int, what: str, *remedies: str) -> None:
    """Raise a PpvaeError where so many bytes are more than the memory limit.

    Args:
        size: bytes.
        what: what takes them, for the message: "sample: 10 data".
        remedies: beside a higher limit.
    """
    limit = memory_limit()
    if size > limit:
        raise PpvaeError(
            f"{what}: takes {in_words(size)}, more than the memory limit of {in_words(limit)}"
            + try_one_of(*remedies, memory_remedy(size))
        )


def _machine() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _control_group(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """The least limit of the control groups that the process is in: of a container, or of a job on a cluster."""
    folders = {root, root / "memory"}  # of versions 2 and 1, as a container sees them
    try:
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            top = root / "memory" if "memory" in controllers.split(",") else root
            group = top / path.lstrip("/")
            folders |= {group, *(folder for folder in group.parents if root in folder.parents)}
    except (OSError, ValueError):
        pass
    limits = []
    for folder in folders:
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                limits.append(int((folder / name).read_text()))
            except (OSError, ValueError):  # "max" is no limit
                continue
    return min(limits, default=None)


def _address_space() -> int | None:
    """What is left below ``ulimit -v``."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError, ValueError):
        return None
    return max(limit - used, 1)

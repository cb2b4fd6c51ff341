"""The provenance of numbers: versions, data, threads and machine of a run, compared when it is resumed."""

from __future__ import annotations

import logging
import platform
import shlex
import time
from collections.abc import Mapping
from typing import Any

import pyro
import torch

from ..storage.folder import RunFolder
from ... import __version__
from ...core.errors import RunError, try_one_of
from ...data import Dataset

_log = logging.getLogger("ppvae.runs")


def about_run(data: Dataset, num_processes: int = 1) -> dict[str, Any]:
    """The facts that a resumed run is compared by."""
    return {
        "versions": {**versions(), "python": platform.python_version()},
        "data": {name: part.fingerprint() for name, part in data.parts.items()},
        "threads": torch.get_num_threads(),
        "processes": num_processes,
        "machine": platform.machine(),
    }


def command(num_processes: int) -> list[str]:
    """The words that start the command in so many processes of one machine."""
    launcher = ["torchrun", "--nproc-per-node", str(num_processes), "-m"] if num_processes > 1 else []
    return [*launcher, "ppvae"]


def versions() -> dict[str, str]:
    """The versions that numbers depend on."""
    return {"ppvae": __version__, "torch": torch.__version__, "pyro": pyro.__version__}


def compare(folder: RunFolder, then: Mapping[str, Any], now: Mapping[str, Any], force: bool) -> None:
    differences = []
    if then.get("data") != now["data"]:
        differences.append("the data are not those of the run (their SHA-256 differs)")
    for name in ("ppvae", "torch", "pyro"):
        old_versions = then.get("versions")
        before = old_versions.get(name) if isinstance(old_versions, Mapping) else None
        if before != now["versions"][name]:
            differences.append(f"{name} is {now['versions'][name]}, then {before}")
    remedies = ["the versions and data of the run"] if differences else []
    if (count := then.get("processes", 1)) != now["processes"]:
        differences.append(f"processes: {now['processes']}, then {count}, each with noise of its own")
        remedies.append(shlex.join([*command(int(count)), "fit", "--resume", str(folder.path)]))
    if differences and not force:
        raise RunError(
            f"{folder.path}: cannot be resumed to the same numbers: {'; '.join(differences)}"
            + try_one_of(*remedies, "force=True, for other numbers")
        )
    for difference in differences:
        _log.warning("%s: %s; going on as asked", folder.path, difference)
    if then.get("threads") != now["threads"]:
        _log.warning(
            "%s: %s threads, then %s: the last digits may differ", folder.path, now["threads"], then.get("threads")
        )


def clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))

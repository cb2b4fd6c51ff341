"""A disk that loses at a power cut what was not synced: the file system as POSIX promises it, and no more."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

Lost = Literal["files", "folders", "nothing"]
AHEAD, BEHIND = "ahead", "behind"


class Disk:
    """Watches a folder, and tells what would be left of it had the power been cut at any moment.

    A file's content is what it was when it was last synced, and empty before. Names (made, replaced, removed) may be
    there or not until their folder is synced: of two disks that are left at every moment, one is *behind*, with the
    names of the last sync, the other *ahead*, with the names of this moment.

    Args:
        root: the folder; it exists and is durable.
        patch: pytest's monkeypatch.
        lose: deliberate faults: "files" or "folders" whose sync does nothing.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, lose: Lost = "nothing") -> None:
        self.root, self.lose = root, lose
        self.cuts: list[tuple[int, dict[str, dict[str, bytes | None]]]] = []
        self.done = 0
        self._watching = True
        self._contents: dict[int, bytes] = {}  # by inode
        self._held: list[int] = []  # a descriptor keeps an inode's number from being given again
        self._names: dict[int, dict[str, int]] = {}  # of a folder, by inode
        self._sync_names(root)
        for name in ("fsync", "replace", "unlink", "mkdir", "rename", "rmdir"):
            patch.setattr(os, name, self._watched(getattr(os, name), name))

    def finished(self) -> None:
        """What was written up to now was told to be safe."""
        self.done += 1
        self._cut()

    def left(self, folder: Path) -> Iterator[tuple[int, Path]]:
        """What is left after a cut at every moment, written to a folder, and how much had been told to be safe."""
        self._watching = False
        for done, disks in self.cuts:
            for files in disks.values():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                for name, content in files.items():
                    if content is None:
                        (folder / name).mkdir(parents=True, exist_ok=True)
                    else:
                        (folder / name).parent.mkdir(parents=True, exist_ok=True)
                        (folder / name).write_bytes(content)
                yield done, folder

    def _watched(self, original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **how: Any) -> Any:
            if not self._watching:
                return original(*args, **how)
            self._cut()
            result = original(*args, **how)
            if name == "fsync":
                self._synced(args[0])
            return result

        return call

    def _synced(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if not path.is_relative_to(self.root):
            return
        if path.is_dir():
            if self.lose != "folders":
                self._sync_names(path)
        elif self.lose != "files":
            self._held.append(os.dup(descriptor))
            self._contents[os.fstat(descriptor).st_ino] = path.read_bytes()

    def _sync_names(self, folder: Path) -> None:
        self._names[folder.stat().st_ino] = {p.name: p.stat().st_ino for p in folder.iterdir()}

    def _cut(self) -> None:
        disks = {AHEAD: self._ahead(), BEHIND: self._behind(self.root.stat().st_ino, "")}
        if not self.cuts or self.cuts[-1] != (self.done, disks):
            self.cuts.append((self.done, disks))

    def _ahead(self) -> dict[str, bytes | None]:
        found: dict[str, bytes | None] = {}
        for path in self.root.rglob("*"):
            content = None if path.is_dir() else self._contents.get(path.stat().st_ino, b"")
            found[str(path.relative_to(self.root))] = content
        return found

    def _behind(self, folder: int, name: str) -> dict[str, bytes | None]:
        found: dict[str, bytes | None] = {}
        for entry, inode in self._names.get(folder, {}).items():
            path = f"{name}{entry}"
            if inode in self._contents:
                found[path] = self._contents[inode]
            elif inode in self._names or inode in self._folders():
                found |= {path: None, **self._behind(inode, f"{path}/")}
            else:
                found[path] = b""
        return found

    def _folders(self) -> set[int]:
        return {path.stat().st_ino for path in self.root.rglob("*") if path.is_dir()}

    def close(self) -> None:
        """Let go of the files."""
        for descriptor in self._held:
            os.close(descriptor)

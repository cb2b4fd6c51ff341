"""A pair from a file of the user's: the only place where a run executes code from outside the package."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import logging
import sys
import weakref
from pathlib import Path
from typing import Any

from .catalogue import FROM_DATA, from_data
from .signatures import Entry, complete_options
from ..storage.atomic import sha256
from ...core import ModelGuidePair
from ...core.errors import PpvaeError, RunError, did_you_mean, try_one_of
from ...data import Dataset

_log = logging.getLogger("ppvae.runs")

_files: weakref.WeakKeyDictionary[Any, Path] = weakref.WeakKeyDictionary()
"""The file that defined a result of :func:`member_of`."""


def split_spec(spec: str) -> tuple[Path, str]:
    """The file and the name of "file.py:Name".

    Raises:
        RunError: no such form, or no such file.
    """
    file, colon, name = spec.rpartition(":")
    if not colon or not name.isidentifier():
        raise RunError(f"--pair: expected 'file.py:Name', found {spec!r}")
    path = Path(file).expanduser()
    if not path.is_file():
        raise RunError(f"--pair: no such file: {path}")
    return path.resolve(), name


def digest_of(path: Path) -> str:
    """The SHA-256 of a source file."""
    try:
        return sha256(path.read_bytes())
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror or error}") from error


def member_of(spec: str) -> Any:
    """Run a file and return its member of this name; one line in the log says so.

    It may import the files beside it, as it may where Python runs it.

    Raises:
        RunError: no such file or name, or the file fails.
    """
    path, name = split_spec(spec)
    _log.warning("running %s (SHA-256 %s) to get %s", path, digest_of(path)[:12], name)
    module_spec = importlib.util.spec_from_file_location(f"ppvae_user_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise RunError(f"--pair: {path} is no Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise RunError(f"{path} fails: {type(error).__name__}: {error}") from error
    finally:
        with contextlib.suppress(ValueError):  # the file itself may have done so
            sys.path.remove(str(path.resolve().parent))
    if not hasattr(module, name):
        names = [key for key, value in vars(module).items() if inspect.isclass(value) or inspect.isfunction(value)]
        raise RunError(f"{path} has no {name!r}: {did_you_mean(name, names)}")
    member = getattr(module, name)
    with contextlib.suppress(TypeError):  # a number, for instance, which build_pair refuses
        _files[member] = path
    return member


def file_of(member: Any, spec: str) -> Path | None:
    """The file with the code of a pair: the one it was read from, else the one its recipe names, where it exists."""
    with contextlib.suppress(TypeError):
        if member in _files:
            return _files[member]
    path = Path(spec.rpartition(":")[0]).expanduser()
    return path if path.is_file() else None


def build_pair(member: Any, options: dict[str, Any], data: Dataset) -> ModelGuidePair:
    """A pair of a class, of a function that returns one, or of an instance.

    Arguments called event_shape, data_dim (of sequences [T, D], that of a step), image_shape or num_classes are taken
    from the data, the others from the options.

    Raises:
        RunError: it cannot be made without further arguments, or is no pair.
    """
    if isinstance(member, ModelGuidePair):
        return member
    if not callable(member):
        raise RunError(f"--pair: expected a ModelGuidePair, found {type(member).__name__}")
    entry = Entry(getattr(member, "__name__", "pair"), member, FROM_DATA)
    if entry.options is None:
        raise RunError(
            f"--pair: {entry.name} takes arguments that a recipe cannot state"
            + try_one_of("a function without arguments that returns the pair", "default values for them")
        )
    parameters = inspect.signature(member).parameters
    arguments = {key: value for key, value in from_data(data).items() if key in parameters}
    options = complete_options(entry, options, "model")
    try:
        pair = member(**arguments, **options)
    except PpvaeError:
        raise
    except Exception as error:
        raise RunError(
            f"--pair: {entry.name} cannot be made: {type(error).__name__}: {error}"
            + try_one_of("PPVAE_DEBUG=1 for the place in your file")
        ) from error
    if not isinstance(pair, ModelGuidePair):
        raise RunError(
            f"--pair: {entry.name} gives a {type(pair).__name__}, expected a ModelGuidePair"
            + try_one_of("ModelGuidePair.from_callables(model, guide)")
        )
    if "_parameters" not in vars(pair):
        raise RunError(f"--pair: {entry.name}.__init__ does not call super().__init__()")
    return pair

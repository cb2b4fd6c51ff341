"""numpy's own files: .npy, memory-mapped where it is large, and .npz archives of named parts."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .files import GZIP_MAX_RATIO, Array, Arrays, read_errors, read_values
from .limits import Budget
from ..core.errors import DataError, try_one_of

MAP_ABOVE = 256 * 2**20
"""Bytes above which a .npy file is memory-mapped instead of read."""

MAX_HEADER = 10_000
"""Bytes that the header of an array may have, as for numpy, which compares only after it has read them."""

_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # numpy's; others unfold 4 kB to gigabytes at one read

_VALIDATION = ("validation", "valid", "val")


def read_npy(path: Path) -> Arrays:
    """The array of a .npy file; above 256 MiB memory-mapped, copy-on-write: rows are read as they are used.

    Labels may stand beside it, ``rows.labels.npy`` for ``rows.npy``.

    Raises:
        DataError: not .npy, truncated, pickled objects (never loaded).
    """
    beside = labels_beside(path)
    labels = read_npy(beside).x if beside.exists() else None
    with read_errors(path, ".npy"):
        with path.open("rb") as stream:
            read_declaration(stream, str(path))
        array = np.lib.format.open_memmap(path, mode="c")  # what the header declares must be there
        if array.nbytes > MAP_ABOVE:
            if not array.dtype.isnative:
                raise DataError(
                    f"{path}: {array.nbytes} bytes in foreign byte order cannot be memory-mapped."
                    + try_one_of("save it again with array.astype(array.dtype.newbyteorder('='))")
                )
            return Arrays(array, labels, memory_mapped=True)
        Budget(path).declare(array.shape, array.dtype)
        return Arrays(np.array(array), labels)


def labels_beside(path: Path) -> Path:
    """The file of the labels of a .npy file.

    >>> labels_beside(Path("rows.npy")).name
    'rows.labels.npy'
    """
    return path.with_suffix(".labels.npy")


def read_npz(path: Path) -> Arrays:
    """The parts of an .npz archive, by the names of its members.

    ========== ============================================= =================================================
    part       rows                                          labels (optional)
    ========== ============================================= =================================================
    train      ``x``, ``x_train`` or ``train``               ``labels``, ``y``, ``y_train``, ``labels_train``
    validation ``validation``, ``valid``, ``val``, ``x_...`` ``y_validation``, ``labels_validation``, ...
    test       ``test``, ``x_test``                          ``y_test``, ``labels_test``
    ========== ============================================= =================================================

    An archive with one member only is read as the training rows, whatever the name. One without training rows whose
    members all have one length holds a mapping: data and covariates by the names that the pair knows them under. So
    does one of ``x`` and members of other names that have its length (``lengths``, ``seen``), without held-out parts.

    Raises:
        DataError: its members declare more than the limit, or are not what they declare; pickled objects.
    """
    budget = Budget(path)
    with read_errors(path, ".npz"), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        arrays: dict[str, Array] = {}
        if len(members) == 1:
            (info,) = members.values()
            return Arrays(_read_member(budget, archive, info))

        def pick(*names: str) -> Array | None:
            present = [name for name in names if name in members]
            if len(present) > 1:
                raise DataError(f"{path}: members {present} name the same part; keep one of them.")
            for name in present:
                arrays[name] = _read_member(budget, archive, members[name])
                return arrays[name]
            return None

        def part(names: tuple[str, ...], bare_labels: tuple[str, ...] = ()) -> Arrays | None:
            bare = ("x",) if "train" in names else ()
            rows = pick(*bare, *names, *(f"x_{name}" for name in names))
            labels = pick(*bare_labels, *(f"{kind}_{name}" for kind in ("y", "labels") for name in names))
            return None if rows is None else Arrays(rows, labels)

        train = part(("train",), ("labels", "y"))
        validation, test = part(_VALIDATION), part(("test",))
        if train is not None and "x" in members and validation is None and test is None:
            beside = {name: info for name, info in members.items() if name not in arrays}
            if beside and all(_shape_of(archive, info)[:1] == train.x.shape[:1] for info in beside.values()):
                arrays |= {name: _read_member(budget, archive, info) for name, info in beside.items()}
                rows = {name: arrays[name] for name in members if name == "x" or name in beside}
                return Arrays.of_members(rows, train.labels)
        if train is None and not arrays:
            mapping = {name: _read_member(budget, archive, info) for name, info in members.items()}
            lengths = {name: value.shape[:1] for name, value in mapping.items()}
            if len(set(lengths.values())) == 1 and () not in lengths.values():
                return Arrays.of_members(mapping)
            raise DataError(
                f"{path}: no training rows among its members, and these share no axis 0: lengths "
                f"{ {name: shape[0] if shape else None for name, shape in lengths.items()} }."
                + try_one_of(
                    "save the rows under the name 'x' or 'x_train': numpy.savez(path, x=rows)",
                    "members of one length, row i of each for datum i: numpy.savez(path, counts=..., dose=...)",
                )
            )
    if train is None:
        raise DataError(
            f"{path}: no training rows among its members {sorted(members)}."
            + try_one_of("save the rows under the name 'x' or 'x_train': numpy.savez(path, x=rows)")
        )
    return Arrays(train.x, train.labels, validation=validation, test=test)


def _shape_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[int, ...]:
    """What the header of a member declares."""
    with archive.open(info) as stream:
        return read_declaration(stream, info.filename)[0]


def _read_member(budget: Budget, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    """One member; before anything is allocated, what its header declares is compared with the archive and the limit."""
    where = f"{budget.path}[{info.filename.removesuffix('.npy')!r}]"
    if info.compress_type not in _COMPRESSION:
        raise DataError(
            f"{where}: compressed by method {info.compress_type} of zip; numpy writes 0 or 8 (deflate)."
            + try_one_of("numpy.savez_compressed(path, x=rows)")
        )
    # The sizes in the archive are claims as well; the file's own is none.
    limit = min(info.file_size, min(info.compress_size, Path(budget.path).stat().st_size) * GZIP_MAX_RATIO)
    with archive.open(info) as stream:
        shape, fortran, dtype = read_declaration(stream, where)
        expected = math.prod(shape) * dtype.itemsize
        if expected > limit:
            raise DataError(
                f"{where}: its header promises {expected} bytes {shape}, the archive holds {limit} at most."
            )
        budget.declare(shape, dtype, where)
        values = read_values(stream, expected)
        more = stream.read(1)  # to the end: there the archive's own checksum is compared
    if len(values) != expected or more:
        found = f"{len(values)}" if len(values) < expected else "more"
        raise DataError(f"{where}: shape {shape} needs {expected} bytes, found {found}.")
    array = values.view(dtype).reshape(shape, order="F" if fortran else "C")
    return array.copy() if fortran else array


def read_declaration(stream: Any, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """What the header of an .npy stream declares: the shape, whether columns come first, the type.

    Raises:
        DataError: a header that is longer than numpy accepts, pickled objects, values of no size (which crash numpy).
    """
    magic = stream.read(8)
    length = stream.read(2 if magic[6:7] == b"\1" else 4)
    size = int.from_bytes(length, "little")
    if size > MAX_HEADER:
        raise DataError(f"{where}: declares a header of {size} bytes, more than the limit of {MAX_HEADER}.")
    header = io.BytesIO(magic + length + stream.read(size))
    version = np.lib.format.read_magic(header)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"{where}: unknown .npy version {version}.")
    parse = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = parse(header)
    if dtype.hasobject:
        raise DataError(
            f"{where}: holds pickled objects, which are never loaded." + try_one_of("save plain numeric arrays")
        )
    if dtype.itemsize == 0:
        raise DataError(f"{where}: values of type {dtype}, which have no size.")
    return shape, fortran, dtype

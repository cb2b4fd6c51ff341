"""numpy's own files: .npy, memory-mapped where it is large, and .npz archives of named parts."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

from .files import GZIP_MAX_RATIO, Array, Arrays, read_errors
from ..core.errors import DataError, try_one_of

MAP_ABOVE = 256 * 2**20
"""Bytes above which a .npy file is memory-mapped instead of read."""

_VALIDATION = ("validation", "valid", "val")


def read_npy(path: Path) -> Arrays:
    """The array of a .npy file; above 256 MiB memory-mapped, copy-on-write: rows are read as they are used.

    Raises:
        DataError: not .npy, truncated, pickled objects (never loaded).
    """
    with read_errors(path, ".npy"):
        array = np.lib.format.open_memmap(path, mode="c")
        if array.nbytes > MAP_ABOVE:
            if not array.dtype.isnative:
                raise DataError(
                    f"{path}: {array.nbytes} bytes in foreign byte order cannot be memory-mapped."
                    + try_one_of("save it again with array.astype(array.dtype.newbyteorder('='))")
                )
            return Arrays(array, memory_mapped=True)
        return Arrays(np.array(array))


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
    members all have one length holds a mapping: data and covariates by the names that the pair knows them under.
    """
    with read_errors(path, ".npz"), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        arrays: dict[str, Array] = {}
        if len(members) == 1:
            (info,) = members.values()
            return Arrays(_read_member(path, archive, info))

        def pick(*names: str) -> Array | None:
            present = [name for name in names if name in members]
            if len(present) > 1:
                raise DataError(f"{path}: members {present} name the same part; keep one of them.")
            for name in present:
                arrays[name] = _read_member(path, archive, members[name])
                return arrays[name]
            return None

        def part(names: tuple[str, ...], bare_labels: tuple[str, ...] = ()) -> Arrays | None:
            bare = ("x",) if "train" in names else ()
            rows = pick(*bare, *names, *(f"x_{name}" for name in names))
            labels = pick(*bare_labels, *(f"{kind}_{name}" for kind in ("y", "labels") for name in names))
            return None if rows is None else Arrays(rows, labels)

        train = part(("train",), ("labels", "y"))
        validation, test = part(_VALIDATION), part(("test",))
        if train is None and not arrays:
            mapping = {name: _read_member(path, archive, info) for name, info in members.items()}
            lengths = {name: value.shape[:1] for name, value in mapping.items()}
            if len(set(lengths.values())) == 1 and () not in lengths.values():
                return Arrays(next(iter(mapping.values())), members=mapping)
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


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    """One member, its promised size compared with what the archive can hold before anything is allocated."""
    where = f"{path}[{info.filename.removesuffix('.npy')!r}]"
    limit = min(info.file_size, info.compress_size * GZIP_MAX_RATIO)
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise DataError(f"{where}: unknown .npy version {version}.")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(stream)
        if dtype.hasobject:
            raise DataError(
                f"{where}: holds pickled objects, which are never loaded." + try_one_of("save plain numeric arrays")
            )
        expected = math.prod(shape) * dtype.itemsize
        if expected > limit:
            raise DataError(
                f"{where}: its header promises {expected} bytes {shape}, the archive holds {limit} at most."
            )
        values = stream.read()  # to the end: there the archive's own checksum is compared
    if len(values) != expected:
        raise DataError(f"{where}: shape {shape} needs {expected} bytes, found {len(values)}.")
    return np.frombuffer(values, dtype).reshape(shape, order="F" if fortran else "C").copy()

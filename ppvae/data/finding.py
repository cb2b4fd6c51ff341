"""Where the files of the data sets with a name are found: a folder of the user's, the cache, a package, a download."""

from __future__ import annotations

import logging
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

from .files import Arrays, cache_folder, read_content, verify
from .named import NamedFile, NamedSet
from .registry import REGISTRY
from ..core.errors import DataError, try_one_of

_log = logging.getLogger("ppvae.data")


def roots() -> list[Path]:
    """Where the files of named sets are searched: ``PPVAE_DATA`` (if it is set), then the cache folder."""
    data = os.environ.get("PPVAE_DATA")
    return ([Path(data)] if data else []) + [cache_folder()]


def package_folder(entry: NamedSet) -> Path | None:
    """The folder of the installed package that holds the files of a set; the package is not imported."""
    name, *inside = entry.package.split("/")
    spec = find_spec(name) if name else None
    places = spec.submodule_search_locations if spec is not None else None
    return Path(places[0], *inside) if places else None


def find_file(entry: NamedSet, file: NamedFile) -> Path | None:
    """The first of ``file`` and ``file.gz`` in the folder of the set under :func:`roots`, or in its package."""
    package = package_folder(entry)
    for folder in [root / entry.folder for root in roots()] + ([package] if package is not None else []):
        for name in (file.name, f"{file.name}.gz"):
            path = folder / name
            if path.is_file():
                return path
    return None


def installation(entry: NamedSet) -> str:
    """What installs the package that holds the files of a set; of its dependencies none is needed to read them."""
    return f"pip install --no-deps {entry.package.partition('/')[0]}"


def read_set(name: str, *, base_url: str | None = None) -> Arrays:
    """The arrays of a named set, every file verified; MNIST is downloaded into the cache folder if absent.

    Raises:
        DataError: absent files (says where to put which), a wrong checksum, a failed download.
    """
    entry = REGISTRY[name]
    files = entry.files or {}
    paths: dict[str, Path] = {}
    for role, file in files.items():
        path = find_file(entry, file)
        if path is None:
            if entry.url is None:
                raise DataError(
                    f"{name}: {file.name} is neither in the data folder nor in the cache folder, and is "
                    "not downloaded."
                    + try_one_of(
                        *([installation(entry)] if entry.package else []),
                        *(f"put {file.name} or {file.name}.gz into {root / entry.folder}" for root in roots()),
                        "set PPVAE_DATA to a folder that holds " + f"{entry.folder}/{file.name}",
                    )
                )
            path = _download(entry, file, base_url or entry.url)
        paths[role] = path
    return entry.read(paths, files)


def _download(entry: NamedSet, file: NamedFile, base_url: str) -> Path:
    """Fetches ``file.gz`` into the cache folder; it gets its name there only once its checksum is right."""
    import pooch

    url = f"{base_url.rstrip('/')}/{file.name}.gz"
    folder = cache_folder() / entry.folder
    target = folder / f"{file.name}.gz"
    remedies = try_one_of(
        "try again when the network is back",
        f"put the file into {folder} by hand",
        "set PPVAE_DATA to a folder that holds " + f"{entry.folder}/{file.name}.gz",
        "use the bundled set 'digits', which needs no download",
    )
    _log.info("downloading %s", url)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
            part = Path(temporary) / target.name
            pooch.HTTPDownloader(timeout=30)(url, str(part), None)
            verify(read_content(part, "gzip"), part, file.checksum)
            os.replace(part, target)
    except DataError as error:
        raise DataError(f"{url}: the download is damaged: {error.args[0].splitlines()[0]}" + remedies) from error
    except Exception as error:  # requests and urllib3 raise many kinds
        raise DataError(f"{url}: cannot be downloaded ({type(error).__name__}: {error})." + remedies) from error
    return target

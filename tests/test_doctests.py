"""The examples in the docstrings run, in the installed package and in a checkout alike."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from types import ModuleType

import pyro
import pytest

import ppvae

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def module_names(path: Iterable[str], package: str) -> Iterator[str]:
    """The package and every module below it, found without importing any."""
    yield package
    for module in pkgutil.iter_modules(path):
        name = f"{package}.{module.name}"
        if module.ispkg:
            yield from module_names([f"{module.module_finder.path}/{module.name}"], name)  # type: ignore[union-attr]
        elif module.name != "__main__":
            yield name


def failures(module: ModuleType) -> list[str]:
    """What the failing examples of a module printed; each docstring starts from the same seed."""
    reports: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for example in doctest.DocTestFinder(exclude_empty=True).find(module):
        pyro.set_rng_seed(0)
        runner.run(example, out=reports.append)
    return reports


@pytest.mark.parametrize("name", sorted(module_names(ppvae.__path__, "ppvae")))
def test_docstring_examples(name: str) -> None:
    reports = failures(importlib.import_module(name))
    assert not reports, "\n".join(reports)


def test_a_wrong_example_is_found() -> None:
    module = ModuleType("wrong", doc=">>> 1 + 1\n3\n")
    assert "Expected:\n    3\nGot:\n    2" in "\n".join(failures(module))

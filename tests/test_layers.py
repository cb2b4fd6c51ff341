"""The architecture as a test: who may import whom, read from the source with ``ast``."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal

import pytest

import ppvae

# --- the law --------------------------------------------------------------------------------------

# What each room may import of the other rooms: a room, or one file of it.
ROOMS: dict[str, set[str]] = {
    "core": set(),
    "networks": {"core.errors", "core.lengths"},
    "distributions": {"core.errors", "core.lengths", "core.wrappers"},
    "data": {"core.bounds", "core.errors"},
    "models": {"core", "networks", "distributions"},
    "inference_data": set(),  # from plain arrays to ArviZ: it serves alone too
    "notebook": set(),  # from plain numbers to HTML: likewise
    "inference": {"core", "distributions", "data", "inference_data", "notebook"},
    "runs": {"core", "data", "models", "inference"},
    "report": {"core", "networks", "distributions", "data", "models", "inference_data", "inference", "runs"},
    "cli": {"core", "networks", "distributions", "data", "models", "inference", "runs", "report"},
}

# What each room within a room may import of its neighbours there; the room's own `__init__` may import all.
INNER_ROOMS: dict[str, set[str]] = {
    "inference.execution": set(),
    "inference.elbo": {"execution"},
    "inference.hmc": {"execution"},
    "inference.evidence": {"execution", "hmc"},
    "inference.training": {"execution", "elbo", "hmc"},
    "inference.prediction": {"execution", "evidence", "hmc"},
    "inference.criticism": {"execution", "evidence", "prediction"},
    "inference.comparison": {"execution", "elbo", "evidence", "training"},
    "runs.storage": set(),
    "runs.recipe": {"storage"},
    "runs.training": {"storage", "recipe"},
    "runs.evaluation": {"storage", "recipe", "training"},
    "runs.trackers": {"storage", "recipe"},
    "report.arviz": set(),
    "report.figures": {"arviz"},
    "report.html": {"figures"},
}

PARTED = {name.partition(".")[0] for name in INNER_ROOMS}
LOOSE_FILES = {
    *("report.findings", "report.sites", "report.restored", "report.common_data", "report.several_runs"),
    *("report.described", "report.classes", "report.layers", "report.sequences", "report.counts", "report.filled"),
}

# What each room may import of other people's packages, at the top of a file or inside a function.
ARRAYS = {"torch", "pyro", "numpy"}
REPORTING = {"arviz", "xarray", "matplotlib", "jinja2", "markupsafe"}
THIRD_PARTY: dict[str, set[str]] = {
    "core": ARRAYS,
    "networks": {"torch"},
    "distributions": {"torch", "pyro", "zuko"},
    "data": {"torch", "numpy", "pandas", "pyarrow", "scipy", "sklearn", "pooch", "tqdm", "rich", "PIL"},
    "models": ARRAYS | {"sklearn"},  # maximum likelihood of factor analysis
    "inference_data": {"numpy", "arviz", "xarray"},
    "notebook": set(),
    "inference": ARRAYS | {"scipy", "pandas", "tqdm"},
    "runs": ARRAYS | {"filelock", "safetensors", "pydantic", "tomli_w", "tensorboard", "mlflow", "wandb"},
    "report": ARRAYS | REPORTING | {"scipy", "pandas", "h5py", "h5netcdf"},
    "cli": ARRAYS | {"typer", "click", "rich", "tqdm", "pydantic"},
}

# Slow to import or optional: inside functions only, so that importing a room is quick and works without them.
LAZY = {"PIL", "pandas", "pyarrow", "scipy", "sklearn", "pooch", "h5py", "h5netcdf"}
LAZY |= {"tensorboard", "mlflow", "wandb", "zuko"}

# All that `ppvae --help` may import besides the standard library.
HELP_START = "ppvae.cli.main"
HELP_PATH = {"typer", "click", "rich"}

PICKLES = {"pickle", "shelve", "marshal", "dill", "cloudpickle", "joblib"}

# The only files that walk a Pyro trace, or answer its statements.
TRACE_WALKERS = {"ppvae/core/tracing.py", "ppvae/core/parameters.py", "ppvae/models/bayesian.py"}


# --- reading the source ---------------------------------------------------------------------------

When = Literal["load", "call", "typing"]  # at import, inside a function, under `if TYPE_CHECKING`


@dataclass(frozen=True)
class Import:
    """One imported module: ``target`` is its dotted name, and a file of ours if there is one of that name."""

    file: str
    line: int
    target: str
    when: When

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def package(self) -> str:
        return self.target.partition(".")[0]


@cache
def module_name(file: str) -> str:
    """The dotted name of a file: ``ppvae/core/__init__.py`` is ``ppvae.core``."""
    parts = PurePosixPath(file).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(name: str) -> str:
    """The room of a dotted name: "" for the package itself; ``python -m ppvae`` is the command line."""
    room = name.split(".")[1] if "." in name else ""
    return "cli" if room == "__main__" else room


def inner_room_of(name: str) -> str:
    """The room within a room: ``ppvae.inference.elbo.trace`` is in "inference.elbo"; "" where there is none."""
    inner = ".".join(name.split(".")[1:3])
    return inner if inner.count(".") and inner.partition(".")[0] in PARTED and inner not in LOOSE_FILES else ""


def imports_of(file: str, tree: ast.Module, modules: set[str]) -> Iterator[Import]:
    """Every import statement of one file, with the moment at which it runs."""
    package = module_name(file).split(".")
    if not file.endswith("/__init__.py"):
        package = package[:-1]

    def visit(node: ast.AST, when: When) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, when)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{origin}.{alias.name}"
                # A name of ours that is no file is defined in `origin`; elsewhere it may be a submodule.
                known = full in modules or full == "ppvae.__version__" or not origin.startswith("ppvae")
                yield Import(file, node.lineno, full if known else origin, when)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for child in ast.iter_child_nodes(node):
                yield from visit(child, "call" if when == "load" else when)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, "typing")
            for child in node.orelse:
                yield from visit(child, when)
        else:
            for child in ast.iter_child_nodes(node):
                yield from visit(child, when)

    yield from visit(tree, "load")


# --- the rules, each a generator of messages ------------------------------------------------------


def room_rule(imports: list[Import]) -> Iterator[str]:
    for item in imports:
        here = room_of(module_name(item.file))
        if here == "" and item.package == "ppvae" and item.when != "typing":
            yield f"{item.place}: the package itself imports {item.target}; it must cost nothing"
        if here == "" or item.package != "ppvae":
            continue
        if here not in ROOMS:
            yield f"{item.file}: no room is called {here!r}"
            continue
        there = room_of(item.target)
        if there in (here, "__version__") or (here == "cli" and there == ""):
            continue
        name = item.target.removeprefix("ppvae.")
        if not any(name == allowed or name.startswith(f"{allowed}.") for allowed in ROOMS[here]):
            allowed = ", ".join(sorted(ROOMS[here])) or "no other room"
            yield f"{item.place}: {here} imports {name}; it may import {allowed}"


def inner_room_rule(imports: list[Import]) -> Iterator[str]:
    for item in imports:
        here, there = (inner_room_of(name) for name in (module_name(item.file), item.target))
        if here == there or not here or not there or here.partition(".")[0] != there.partition(".")[0]:
            continue
        if here not in INNER_ROOMS:
            yield f"{item.file}: no room is called {here!r}"
        elif there.partition(".")[2] not in INNER_ROOMS[here]:
            allowed = ", ".join(sorted(INNER_ROOMS[here])) or "none of its neighbours"
            yield f"{item.place}: {here} imports {there}; it may import {allowed}"


def loose_file_rule(files: Iterable[str]) -> Iterator[str]:
    for file in files:
        path = PurePosixPath(file)
        if path.parent == PurePosixPath("ppvae/inference") and path.name != "__init__.py":
            yield f"{file}: every verb has its room; only __init__.py stands directly in inference"


def third_party_rule(imports: list[Import]) -> Iterator[str]:
    for item in imports:
        if item.package == "ppvae" or item.package in sys.stdlib_module_names:
            continue
        here = room_of(module_name(item.file))
        if item.package not in THIRD_PARTY.get(here, set()):
            yield f"{item.place}: {here or 'the package itself'} imports {item.package}"
        elif item.package in LAZY and item.when == "load":
            yield f"{item.place}: {item.package} must be imported inside the function that needs it"


def cycle_rule(imports: list[Import], modules: set[str]) -> Iterator[str]:
    """Lazy imports count: a cycle hidden in a function is a cycle."""
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for item in imports:
        if item.target in modules and item.when != "typing":
            graph[module_name(item.file)].add(item.target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield "import cycle: " + " <- ".join(error.args[1])


def help_rule(imports: list[Import], modules: set[str]) -> Iterator[str]:
    """Walk what importing the command line runs, the packages above each module included."""
    todo, seen = [HELP_START], set[str]()
    while todo:
        name = todo.pop()
        if name in seen or name not in modules:
            continue
        seen.add(name)
        todo += [name.rpartition(".")[0]] if "." in name else []
        for item in imports:
            if module_name(item.file) != name or item.when != "load":
                continue
            todo.append(item.target)
            if item.package not in {"ppvae", *HELP_PATH, *sys.stdlib_module_names}:
                yield f"{item.place}: {item.package} is imported by `ppvae --help`"


def poutine_rule(file: str, tree: ast.Module) -> Iterator[str]:
    if file in TRACE_WALKERS:
        return
    for node in ast.walk(tree):
        match node:
            case ast.Name(id="poutine") | ast.Attribute(attr="poutine"):
                yield f"{file}:{node.lineno}: poutine is for {' and '.join(sorted(TRACE_WALKERS))}"
            case ast.Import(names=names):
                if any("poutine" in alias.name.split(".") for alias in names):
                    yield f"{file}:{node.lineno}: imports poutine"
            case ast.ImportFrom(module=module, names=names):
                found = {*(module or "").split("."), *(alias.name for alias in names)}
                if "poutine" in found:
                    yield f"{file}:{node.lineno}: imports poutine"


def pickle_rule(file: str, tree: ast.Module, imports: list[Import]) -> Iterator[str]:
    for item in imports:
        if item.package in PICKLES:
            yield f"{item.place}: never load a pickle: {item.target}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        callee = ast.unparse(node.func)
        safe = any(k.arg == "allow_pickle" and ast.unparse(k.value) == "False" for k in node.keywords)
        if callee == "torch.load" or (callee in {"np.load", "numpy.load"} and not safe):
            yield f"{file}:{node.lineno}: never load a pickle: {callee}"


def violations(sources: dict[str, str]) -> list[str]:
    """All that breaks the law in a tree of files, ``{"ppvae/core/pair.py": source}``."""
    trees = {file: ast.parse(source, file) for file, source in sources.items()}
    modules = {module_name(file) for file in sources}
    imports_by_file = {file: [*imports_of(file, tree, modules)] for file, tree in trees.items()}
    imports = [item for several in imports_by_file.values() for item in several]
    found = [*room_rule(imports), *inner_room_rule(imports), *loose_file_rule(sources), *third_party_rule(imports)]
    found += [*cycle_rule(imports, modules), *help_rule(imports, modules)]
    for file, tree in trees.items():
        found += [*poutine_rule(file, tree), *pickle_rule(file, tree, imports_by_file[file])]
    return sorted(found)


# --- the package obeys ----------------------------------------------------------------------------


def package_sources() -> dict[str, str]:
    root = Path(str(ppvae.__file__)).parent
    return {
        file.relative_to(root.parent).as_posix(): file.read_text(encoding="utf-8")
        for file in sorted(root.rglob("*.py"))
    }


def test_package_obeys() -> None:
    sources = package_sources()
    assert "ppvae/core/errors.py" in sources
    assert violations(sources) == []


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, ppvae; print(*sorted({'torch', 'pyro', 'numpy', 'arviz'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_rooms_are_reached_through_the_package() -> None:
    assert ppvae.core.__name__ == "ppvae.core"
    assert {*ROOMS} - {"inference_data", "notebook"} <= set(dir(ppvae))  # files: attributes only once they are imported
    with pytest.raises(AttributeError, match=r"'ppvae' has no attribute 'modles'"):
        ppvae.modles  # noqa: B018


# --- the checker can fail -------------------------------------------------------------------------

LAWFUL = {
    "ppvae/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import core",
    "ppvae/core/__init__.py": "from .errors import PairError\nfrom .density import draw",
    "ppvae/core/errors.py": "import difflib",
    "ppvae/core/density.py": "import torch\nfrom .errors import PairError",
    "ppvae/core/tracing.py": "from pyro import poutine",
    "ppvae/data/__init__.py": "",
    "ppvae/data/load.py": "import numpy\nfrom ..core.errors import DataError\ndef f():\n    import pandas",
    "ppvae/models/__init__.py": "",
    "ppvae/models/vae.py": "from ..core import draw",
    "ppvae/inference/__init__.py": "",
    "ppvae/inference/training/__init__.py": "",
    "ppvae/inference/training/svi.py": "from ...core import draw\nfrom ...data import load",
    "ppvae/report/__init__.py": "",
    "ppvae/report/figures.py": "import matplotlib.pyplot as plt",
    "ppvae/cli/__init__.py": "",
    "ppvae/cli/main.py": "import typer\ndef fit():\n    import torch\n    from ..inference.training import svi",
}


def test_lawful_tree_passes() -> None:
    assert violations(LAWFUL) == []


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        ("ppvae/models/x.py", "from ..inference.training import svi", "models imports inference.training.svi"),
        ("ppvae/models/x.py", "def f():\n    import ppvae.inference.training.svi", "models imports inference.t"),
        ("ppvae/inference/elbo/y.py", "from ppvae.models import VAE", "inference imports models"),
        ("ppvae/inference/elbo/x.py", "from ...models.vae import VAE", "inference imports models.vae"),
        ("ppvae/report/x.py", "from ..cli.main import main", "report imports cli.main"),
        ("ppvae/data/x.py", "from ..core import draw", "data imports core; it may import core.bounds, core.errors"),
        ("ppvae/core/x.py", "from .. import data", "core imports data; it may import no other room"),
        ("ppvae/core/x.py", "import ppvae", "core imports ppvae"),
        ("ppvae/inference/elbo/x.py", "from ..training import svi", "inference.elbo imports inference.training"),
        ("ppvae/inference/attic/x.py", "from ..training import svi", "no room is called 'inference.attic'"),
        ("ppvae/inference/x.py", "", "only __init__.py stands directly in inference"),
        ("ppvae/attic/x.py", "from ..core import draw", "no room is called 'attic'"),
        ("ppvae/__init__.py", "from .core import draw", "the package itself imports ppvae.core"),
        ("ppvae/__init__.py", "import torch", "the package itself imports torch"),
        ("ppvae/inference/elbo/x.py", "def f():\n    import arviz", "inference imports arviz"),
        ("ppvae/networks/x.py", "import pyro.distributions", "networks imports pyro"),
        ("ppvae/data/x.py", "import pandas as pd", "pandas must be imported inside the function"),
        ("ppvae/core/errors.py", "def f():\n    from .density import draw", "import cycle: "),
        ("ppvae/core/density.py", "from . import PairError", "import cycle: "),
        ("ppvae/cli/main.py", "import torch", "ppvae/cli/main.py:1: torch is imported by `ppvae --help`"),
        ("ppvae/cli/main.py", "from ..core.errors import X", "ppvae/core/density.py:1: torch is imported by"),
        ("ppvae/core/x.py", "from pyro import poutine", "ppvae/core/x.py:1: imports poutine"),
        ("ppvae/core/x.py", "from pyro.poutine import trace", "ppvae/core/x.py:1: imports poutine"),
        ("ppvae/core/x.py", "import pyro.poutine as p", "ppvae/core/x.py:1: imports poutine"),
        ("ppvae/core/x.py", "import pyro\npyro.poutine.trace", "ppvae/core/x.py:2: poutine is for"),
        ("ppvae/runs/x.py", "import torch\ntorch.load('x')", "x.py:2: never load a pickle: torch.load"),
        ("ppvae/data/x.py", "import numpy as np\nnp.load('x')", "never load a pickle: np.load"),
        ("ppvae/runs/x.py", "import pickle", "never load a pickle: pickle"),
    ],
)
def test_checker_reports(file: str, source: str, message: str) -> None:
    found = violations(LAWFUL | {file: source})
    assert any(message in line for line in found), found


def test_typing_imports_are_no_cycle() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .density import draw"
    assert violations(LAWFUL | {"ppvae/core/errors.py": source}) == []

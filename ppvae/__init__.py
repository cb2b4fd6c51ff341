"""Deep latent-variable models on Pyro: a pair goes in, a number with an error bar comes out.

Write a generative model and its guide once, as a Pyro model/guide pair; train it with any ELBO estimator,
sample its posterior, estimate the marginal likelihood of every datum with its error, and get a report.
Each room is imported at first use, so ``import ppvae`` costs nothing: ``ppvae.models`` imports
``ppvae/models`` and only what that needs.

>>> import ppvae
>>> "models" in dir(ppvae)
True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import cli, core, data, distributions, inference, models, networks, report, runs

__version__ = "0.1.0.dev0"

__all__ = [
    "__version__",
    "cli",
    "core",
    "data",
    "distributions",
    "inference",
    "models",
    "networks",
    "report",
    "runs",
]


def __getattr__(name: str) -> Any:
    """Import the room ``name`` on first access (PEP 562)."""
    if name in __all__:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

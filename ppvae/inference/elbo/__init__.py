"""ELBO estimators, one file each; all are subclasses of ``pyro.infer.elbo.ELBO``."""

from .base import ELBO, BoundTerms
from .trace import TraceELBO
from .trace_mean_field import TraceMeanFieldELBO

__all__ = ["ELBO", "BoundTerms", "TraceELBO", "TraceMeanFieldELBO"]

"""Figures, and one page of HTML that shows them with every number."""

from .build import write_report
from .compare import write_comparison

__all__ = ["write_comparison", "write_report"]

"""Figures, and one page of HTML that shows them with every number; every result for ArviZ."""

from .arviz.groups import evidence_groups, export_arviz, guide_groups, prior_groups
from .html.build import write_report
from .html.compare import write_comparison
from ..inference_data import read_netcdf, write_netcdf

__all__ = [
    "evidence_groups",
    "export_arviz",
    "guide_groups",
    "prior_groups",
    "read_netcdf",
    "write_comparison",
    "write_netcdf",
    "write_report",
]

"""What a pair is, its densities, how a pure function is compiled, what is checked."""

from .checks import check_pair
from .conditioning import as_one_datum, sum_out
from .density import draw, log_guide, log_joint, structure
from .errors import DataError, FitError, PairError, PpvaeError, ProcessError, RunError
from .guide_sum import draw_all_values
from .pair import Data, ModelGuidePair, batch_size, members_of, rows_of
from .parameters import local_parameters
from .roles import Role, parameter_roles
from .simulation import predict, simulate, simulate_given
from .site import SiteInfo
from .site_terms import log_guide_site, site_terms
from .structure import Structure
from .summed import DiscreteSite, discrete_marginals, discrete_sites, draw_discrete
from .terms import Draw, LogTerms, Simulation, SiteTerm, scaled_total
from .unconstrained import Unconstrained, unconstrained

__all__ = [
    "Data",
    "DataError",
    "DiscreteSite",
    "Draw",
    "FitError",
    "LogTerms",
    "ModelGuidePair",
    "PairError",
    "PpvaeError",
    "ProcessError",
    "Role",
    "RunError",
    "Simulation",
    "SiteInfo",
    "SiteTerm",
    "Structure",
    "Unconstrained",
    "as_one_datum",
    "batch_size",
    "check_pair",
    "discrete_marginals",
    "discrete_sites",
    "draw",
    "draw_all_values",
    "draw_discrete",
    "log_guide",
    "log_guide_site",
    "local_parameters",
    "log_joint",
    "members_of",
    "parameter_roles",
    "predict",
    "rows_of",
    "scaled_total",
    "simulate",
    "simulate_given",
    "site_terms",
    "structure",
    "sum_out",
    "unconstrained",
]

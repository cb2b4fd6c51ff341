"""Options of the chains: HMC with a fixed number of leapfrogs, or ChEES, which adapts it in warm-up."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.errors import PpvaeError, try_one_of


@dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo with a fixed number of leapfrogs; AEVB appendix D uses 4 at a target acceptance of 0.9.

    Near a Gaussian posterior with a good mass, a trajectory of length pi ends at -u and one of 2 pi at u, for any
    momentum. Hence the wide jitter: in 2 dimensions with 4 leapfrogs at 0.8, the effective sample size of the worst
    twentieth of the coordinates was 0.01 per draw without jitter, 0.22 with 0.2 and 0.80 with 0.5.

    Attributes:
        num_leapfrog: L, gradient evaluations of one transition.
        target_acceptance: acceptance that every chain's step size is adapted to.
        jitter: half-width of the uniform factor on the step size of each transition, in [0, 1).
        step_size: the initial step size, or with ``num_warmup=0`` the step size itself; None for d^(-1/4) / 2.
        adapt_mass: estimate a diagonal mass in warm-up; False for the guide's variances, or ones.
    """

    num_leapfrog: int = 10
    target_acceptance: float = 0.8
    jitter: float = 0.5
    step_size: float | None = None
    adapt_mass: bool = True

    def __post_init__(self) -> None:
        _check(self, self.num_leapfrog, "num_leapfrog")


@dataclass(frozen=True)
class ChEES:
    """Hamiltonian Monte Carlo whose number of leapfrogs is adapted in warm-up.

    The number maximises the expected change of the squared distance from the centre (Hoffman, Radul & Sountsov 2021,
    PMLR 130), averaged over the chains and data of a chunk, which run in lockstep: the data of a chunk share this one
    number. It is frozen with the rest when warm-up ends.

    Attributes:
        initial_leapfrog: the number of leapfrogs at the start of warm-up; above the optimum the criterion has further,
            worse maxima.
        max_leapfrog: the largest number allowed.
        target_acceptance: acceptance that every chain's step size is adapted to.
        jitter: half-width of the uniform factor on the step size of each transition, in [0, 1).
        step_size: the initial step size; None for d^(-1/4) / 2.
        adapt_mass: estimate a diagonal mass in warm-up.
        learning_rate: of Adam on the logarithm of the number of leapfrogs.
    """

    initial_leapfrog: int = 1
    max_leapfrog: int = 200
    target_acceptance: float = 0.8
    jitter: float = 0.0
    step_size: float | None = None
    adapt_mass: bool = True
    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        _check(self, self.initial_leapfrog, "initial_leapfrog")
        if self.max_leapfrog < self.initial_leapfrog:
            raise PpvaeError(
                f"ChEES: max_leapfrog is {self.max_leapfrog}, below initial_leapfrog = {self.initial_leapfrog}"
            )
        if not self.learning_rate > 0:
            raise PpvaeError(f"ChEES: expected a positive learning_rate, found {self.learning_rate}")


Options = HMC | ChEES


def _check(options: Options, num_leapfrog: int, name: str) -> None:
    kind = type(options).__name__
    if num_leapfrog < 1:
        raise PpvaeError(f"{kind}: expected {name} of at least 1, found {num_leapfrog}")
    if not 0 < options.target_acceptance < 1:
        raise PpvaeError(
            f"{kind}: expected a target_acceptance between 0 and 1, found {options.target_acceptance}"
            + try_one_of("0.8, or 0.9 as in AEVB appendix D")
        )
    if not 0 <= options.jitter < 1:
        raise PpvaeError(f"{kind}: expected a jitter in [0, 1), found {options.jitter}")
    if options.step_size is not None and not options.step_size > 0:
        raise PpvaeError(f"{kind}: expected a positive step_size, found {options.step_size}")

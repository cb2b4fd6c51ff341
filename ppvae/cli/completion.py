"""What a shell completes: the names that options take. They stand here so that a press of Tab imports nothing heavy.

A test compares them with the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable

MODELS = (
    "bernoulli-vae",
    "conditional-vae",
    "convolutional-vae",
    "count-vae",
    "deep-exponential-family",
    "deep-markov-model",
    "discretised-logistic-vae",
    "factor-analysis",
    "gamma-poisson",
    "gaussian-vae",
    "hidden-markov-model",
    "hierarchical-vae",
    "linear-gaussian-state-space",
    "missing-data-vae",
    "mixture-of-factor-analysers",
    "mixture-vae",
    "multimodal-vae",
    "multinomial-vae",
    "negative-binomial-vae",
    "poisson-vae",
    "semi-supervised-vae",
    "sigmoid-belief-network",
    "student-t-vae",
    "topic-model",
)

PRIORS = ("flow", "mixture", "standard", "vamp")

LIKELIHOODS = ("bernoulli", "continuous-bernoulli", "discretised-logistic", "gaussian", "student-t")

POSTERIORS = ("coupling", "diagonal", "full", "iaf", "low-rank", "planar", "spline")

ELBOS = (
    "doubly-reparameterized",
    "importance-weighted",
    "renyi",
    "reweighted-wake-sleep",
    "score-function",
    "sticking-the-landing",
    "trace",
    "trace-mean-field",
    "vimco",
    "with-classifier",
)

METHODS = (
    "ais",
    "auto",
    "bdmc",
    "bridge-sampling",
    "exact",
    "importance-sampling",
    "prior-sampling",
    "psis",
    "ris",
)

REGIONS = ("left", "right", "top", "bottom", "box")

DATA_SETS = (
    "binarized-mnist",
    "digits",
    "frey-faces",
    "japanese-vowels",
    "jsb-chorales",
    "mnist",
    "mnist-5000",
    "newsgroups",
    "olivetti-faces",
    "penguins",
    "reuters",
)


def among(*names: str) -> Callable[[str], list[str]]:
    """The names that begin as what was typed; of none of them the shell completes files, where it can."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete

"""Which model for which data: one list, from which the index page has its table and its picture.

Nothing here needs Sphinx; a test holds every name to the command line and every page to its file.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import NamedTuple


class Choice(NamedTuple):
    """A model and the data it is for.

    Attributes:
        data: what one has, as short as it can be said.
        model: its name on the command line.
        page: its page in this folder.
        why: what it does that the others do not.
    """

    data: str
    model: str
    page: str
    why: str


CHOICES: dict[str, list[Choice]] = {
    "rows or pictures": [
        Choice("zeros and ones", "bernoulli-vae", "vae", "AEVB's own; any prior and posterior by name"),
        Choice("real values", "gaussian-vae", "vae", "a mean and a scale for every entry"),
        Choice("real, some far out", "student-t-vae", "vae", "tails that forgive"),
        Choice("bytes, levels", "discretised-logistic-vae", "vae", "a density of the levels, not of what lies between"),
        Choice("pictures", "convolutional-vae", "convolutional_vae", "near pixels share weights"),
        Choice(
            "detail on several scales", "hierarchical-vae", "hierarchical_vae", "layers of latents, any prior on top"
        ),
        Choice(
            "binary causes",
            "sigmoid-belief-network",
            "sigmoid_belief_network",
            "layers of coins; VIMCO or a relaxation",
        ),
        Choice(
            "a linear map would do", "factor-analysis", "factor_analysis", "everything exact: what others are tested by"
        ),
    ],
    "groups or labels": [
        Choice("groups nobody named", "mixture-vae", "mixture_vae", "a class that is summed out, a latent within it"),
        Choice("the same, linear", "mixture-of-factor-analysers", "mixture_of_factor_analysers", "everything exact"),
        Choice(
            "labels for a few", "semi-supervised-vae", "semi_supervised_vae", "known where given, summed out where not"
        ),
        Choice("labels for all", "conditional-vae", "conditional_vae", "what is left when the label is given"),
    ],
    "gaps, several views": [
        Choice(
            "missing entries", "missing-data-vae", "missing_data_vae", "the evidence of what is there; fills the rest"
        ),
        Choice("two kinds of data", "multimodal-vae", "multimodal_vae", "either may be missing as a whole"),
    ],
    "counts": [
        Choice("words of documents", "topic-model", "topic_model", "topics as words; each document's own total"),
        Choice("counts", "poisson-vae", "vae", "the mean is the variance"),
        Choice("counts that vary more", "negative-binomial-vae", "vae", "a dispersion, and zeros that drop out"),
        Choice("shares of a total", "multinomial-vae", "vae", "given how many there are"),
        Choice("cells, reads", "count-vae", "count_vae", "library size, drop-out, batches"),
        Choice(
            "rare, sparse causes", "deep-exponential-family", "deep_exponential_family", "layers of positive latents"
        ),
        Choice("one rate a datum", "gamma-poisson", "gamma_poisson", "everything exact"),
    ],
    "sequences": [
        Choice("a state that drifts", "deep-markov-model", "deep_markov_model", "gated transitions, lengths"),
        Choice("the same, linear", "linear-gaussian-state-space", "linear_gaussian_state_space", "everything exact"),
        Choice("a state that jumps", "hidden-markov-model", "hidden_markov_model", "everything exact"),
    ],
}
"""By kind of data."""


def every() -> Iterator[Choice]:
    """All of them, in order."""
    for several in CHOICES.values():
        yield from several


def table() -> tuple[list[str], list[list[str]]]:
    """Header and rows, in reStructuredText."""
    rows = [
        [f"{kind}: {one.data}", f":doc:`{one.model} <{one.page}>`", one.why]
        for kind, several in CHOICES.items()
        for one in several
    ]
    return ["you have", "model", "what it does"], rows


_ROW, _PAD = 26, 14  # pixels between two models, and more between two kinds
_X = (8, 158, 196, 372, 438)  # the kinds, the ends of their braces, the data, the dots, the models
_WIDTH, _FONT = 660, 13


def picture() -> str:
    """The same as a tree, from the left: what you have, of which kind, and the model, which is a link to its page."""
    lines, words, y = [], [], 20.0
    for kind, several in CHOICES.items():
        middle = y + _ROW * (len(several) - 1) / 2
        words.append(_text(_X[0], middle, kind, "600"))
        for one in several:
            lines.append(_line(_X[1], middle, _X[2] - 6, y))
            words.append(_text(_X[2], y, one.data))
            lines.append(f'<path d="M{_X[3]} {y:.0f}H{_X[4] - 6}" stroke-dasharray="1 4"/>')
            words.append(f'<a href="{one.page}.html">{_text(_X[4], y, one.model, "600", link=True)}</a>')
            y += _ROW
        y += _PAD
    return (
        f'<svg class="chooser" viewBox="0 0 {_WIDTH} {y:.0f}" role="img" aria-label="Which model for which data" '
        f'font-size="{_FONT}" font-family="inherit" fill="currentColor">'
        f'<g fill="none" stroke="currentColor" stroke-opacity=".35">{"".join(lines)}</g>{"".join(words)}</svg>'
    )


def _line(x: float, y: float, to_x: float, to_y: float) -> str:
    bend = (x + to_x) / 2
    return f'<path d="M{x:.0f} {y:.0f}C{bend:.0f} {y:.0f} {bend:.0f} {to_y:.0f} {to_x:.0f} {to_y:.0f}"/>'


def _text(x: float, y: float, text: str, weight: str = "400", link: bool = False) -> str:
    colour = ' fill="var(--color-link, #2757dd)"' if link else ""
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" dominant-baseline="central" font-weight="{weight}"{colour}>'
        f"{escape(text)}</text>"
    )

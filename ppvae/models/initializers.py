"""How the weights of a model start, by name, each a function of numbers: for the presets and for recipes."""

from __future__ import annotations

from ..networks import glorot, he, paper

__all__ = ["glorot", "he", "paper"]

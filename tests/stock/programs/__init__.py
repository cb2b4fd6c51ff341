"""Pyro's published examples, written anew: same idioms, same calling convention, small."""

from __future__ import annotations

from stock.programs import autoencoders, cells, hierarchies, mixtures, music, regressions, sequences
from stock.record import Stock

FAMILIES = (autoencoders, cells, sequences, music, mixtures, hierarchies, regressions)

PROGRAMS: dict[str, Stock] = {name: stock for family in FAMILIES for name, stock in family.PROGRAMS.items()}

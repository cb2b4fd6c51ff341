"""Recipes, run folders, checkpoints: training that survives, and evaluation that can be repeated."""

from .folder import RunFolder
from .history import Stopped, read_history
from .recipe import Recipe
from .run import Run, load_run, resume, train
from .source import member_of

__all__ = ["Recipe", "Run", "RunFolder", "Stopped", "load_run", "member_of", "read_history", "resume", "train"]

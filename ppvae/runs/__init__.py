"""Recipes, run folders, checkpoints: training that survives, and evaluation that can be repeated."""

from .recipe.recipe import Recipe
from .recipe.source import member_of
from .storage.folder import RunFolder
from .trackers.mlflow import MLflowLogger
from .trackers.registry import LOGGERS, loggers_again, loggers_of
from .trackers.tensorboard import TensorBoardLogger
from .trackers.tracker import Tracker
from .trackers.wandb import WandbLogger
from .training.history import RunInterrupt, read_history
from .training.prepare import model_for_data
from .training.run import Run, load_run, resume, train

__all__ = [
    "LOGGERS",
    "MLflowLogger",
    "Recipe",
    "Run",
    "RunFolder",
    "RunInterrupt",
    "TensorBoardLogger",
    "Tracker",
    "WandbLogger",
    "load_run",
    "loggers_again",
    "loggers_of",
    "model_for_data",
    "member_of",
    "read_history",
    "resume",
    "train",
]

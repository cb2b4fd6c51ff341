"""Recipes, run folders, checkpoints: training that survives, and evaluation that can be repeated."""

from .folder import RunFolder
from .history import Stopped, read_history
from .loggers_common import Tracker
from .loggers_mlflow import MLflowLogger
from .loggers_named import LOGGERS, loggers_again, loggers_of
from .loggers_tensorboard import TensorBoardLogger
from .loggers_wandb import WandbLogger
from .recipe import Recipe
from .run import Run, load_run, resume, train
from .source import member_of

__all__ = [
    "LOGGERS",
    "MLflowLogger",
    "Recipe",
    "Run",
    "RunFolder",
    "Stopped",
    "TensorBoardLogger",
    "Tracker",
    "WandbLogger",
    "load_run",
    "loggers_again",
    "loggers_of",
    "member_of",
    "read_history",
    "resume",
    "train",
]

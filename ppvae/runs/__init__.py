"""Recipes, run folders, checkpoints: training that survives, and evaluation that can be repeated."""

from .evaluation.estimates import Method
from .evaluation.evaluation import evaluate
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
from .training.run import Run, load_run
from .training.several import (
    Member,
    SeveralFolder,
    is_several,
    members_of,
    read_several,
    resume_several,
    train_several,
)
from .training.train import resume, train

__all__ = [
    "LOGGERS",
    "MLflowLogger",
    "Member",
    "Method",
    "Recipe",
    "Run",
    "RunFolder",
    "RunInterrupt",
    "SeveralFolder",
    "TensorBoardLogger",
    "Tracker",
    "WandbLogger",
    "evaluate",
    "is_several",
    "load_run",
    "loggers_again",
    "loggers_of",
    "model_for_data",
    "member_of",
    "members_of",
    "read_history",
    "read_several",
    "resume",
    "resume_several",
    "train",
    "train_several",
]

"""Training of the networks of a model; `train` is the verb that the command calls."""

from flashdiff_cli.training.recipe import Recipe
from flashdiff_cli.training.stages import make_task, train

__all__ = ["Recipe", "make_task", "train"]

"""What can go wrong while training.

TrainingError
├─ BadRecipe      a recipe or an override cannot be used
├─ BadData        a folder or archive of stills cannot be used
├─ BadRun         a run folder is missing, unfinished or in the way
├─ BadWeights     weights of a network of others cannot be had, or are not its
└─ Diverged       the loss stopped being a number

Stopped, a KeyboardInterrupt, is no error: a run was asked to stop, and saved.
"""


class TrainingError(Exception):
    """Base of all errors that a person can mend; its text is one line for that person."""


class BadRecipe(TrainingError):
    """A recipe or an override cannot be used."""


class BadData(TrainingError):
    """A folder or archive of stills cannot be used."""


class BadWeights(TrainingError):
    """Weights of a network of others cannot be had, or are not its."""


class BadRun(TrainingError):
    """A run folder is missing, unfinished or in the way."""


class Diverged(TrainingError):
    """The loss stopped being a number; the last good checkpoint is kept."""


class Stopped(KeyboardInterrupt):
    """A run was asked to stop, by Ctrl-C or SIGTERM, and did so after the step in hand, with a checkpoint."""

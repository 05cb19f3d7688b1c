"""Errors that a user can mend. The command line prints them as one line and exits with their code."""


class UserError(Exception):
    """Base of every error that names what is wrong and how to mend it; never a bug in lazytower."""

    exit_code = 2


class ConfigError(UserError):
    """A run configuration is not valid: names the file and the key."""


class DataError(UserError):
    """Raw input or a prepared dataset is missing, torn or not what the configuration says."""


class CheckpointError(UserError):
    """A checkpoint is missing, torn or belongs to another run."""


class ExportError(UserError):
    """A SavedModel could not be written, or did not answer as the trained model does."""


class Stopped(BaseException):
    """A run ended early because it was asked to: by a signal, or by its time limit.

    Like KeyboardInterrupt no Exception: nothing on the way may take it for a failure and go on.
    """

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: run the same command again

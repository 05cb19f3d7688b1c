"""Errors that a user can fix. The command line prints them as one line and exits with their code."""


class UserError(Exception):
    """Base of every error that names what is wrong and how to fix it; never a bug in lazytower."""

    exit_code = 2


class ConfigError(UserError):
    """A run configuration is not valid: names the file and the key."""


class DataError(UserError):
    """Raw input or a prepared dataset is missing, incomplete or not what the configuration describes."""


class CheckpointError(UserError):
    """A checkpoint is missing, incomplete or belongs to another run."""


class ExportError(UserError):
    """A SavedModel could not be written, or its answers differ from the trained model's."""


class Stopped(BaseException):
    """A run ended early because it was asked to: by a signal, or by its time limit.

    Like KeyboardInterrupt it is not an Exception, so no handler mistakes it for a failure and carries on.
    """

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: run the same command again

"""What a launcher does: machines for the attempts of a job, asked for, looked at and deleted."""

from typing import NamedTuple, Protocol

from configs.errors import UserError


class SliceState(NamedTuple):
    """Where the machine, or slice of machines, of one attempt is in its life."""

    kind: str
    """absent, waiting, provisioning, ready, lost (taken away), refused (perhaps not for ever), failed
    (for ever) or deleting."""
    reason: str = ""
    """In words, for lost, refused and failed, and for absent when the name is in use by others."""


class Refused(Exception):
    """There is no machine now, and there may be one later; its text says why."""


class Exists(Exception):
    """There is something of the requested name already."""


class Unreachable(UserError):
    """The service did not answer, for longer than the client tries; nothing is known."""


class LaunchError(UserError):
    """A machine cannot be had for a reason that only the user can mend."""


class Slices(Protocol):
    """The machines that a job has, without the means to ask for more: all that ending a job takes.

    Every method may be called again, also by another process, with the same effect.

    Args:
      job_path: the job's directory.
      launch: the launch section, a plain mapping; keys that are not needed here may be of another version.
    """

    settle_seconds: float
    """How long a request may take to show after the process that sent it has died."""

    def __init__(self, job_path: str, launch: dict): ...

    def observe(self, attempt: int) -> SliceState:
        """Looks at an attempt's machine; one that is not this job's is absent. Raises Unreachable,
        LaunchError."""

    def delete(self, attempt: int) -> None:
        """Begins to delete an attempt's machine; none, or one that is not this job's, is no error.

        Raises:
          Unreachable, LaunchError.
        """

    def left(self, attempt: int) -> str:
        """What may be left of an attempt that could not be looked at, and the command that deletes it."""


class Launcher(Slices, Protocol):
    """Machines of one job, those to come included.

    Args:
      config: configs.schema.RunConfig.
      job_path: the job's directory.
      facts: what was submitted (trainer/jobs/record.py): `directory`, which the config's local paths are
        relative to, and `wheel`, the name of the staged file.
    """

    slices: type[Slices]
    """Class of the part that needs the launch section alone."""
    machine: str
    """What an attempt runs on, in one word of a sentence."""

    def __init__(self, config, job_path: str, facts: dict): ...

    def check(self) -> list[str]:
        """Asks, before anything is spent, whether the job can run; what the user should know, a line each.

        Raises:
          UserError: it cannot.
        """

    def check_files(self) -> None:
        """Looks at the config's paths and names, without asking anybody. Raises UserError."""

    def describe(self, attempt: int) -> list[tuple[str, str]]:
        """What `create` would send, as (title, text)."""

    @property
    def chips(self) -> int:
        """What is paid for, in chips; 0: nothing."""

    def needs_wheel(self) -> bool:
        """Whether the machine installs lazytower."""

    def create(self, attempt: int) -> None:
        """Asks for an attempt's machine; one that is there already is left as it is.

        Raises:
          Refused, Unreachable, LaunchError.
        """

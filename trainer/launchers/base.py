"""What a launcher does: machines for the attempts of a job, asked for, looked at and deleted."""

from typing import NamedTuple, Protocol

from configs.errors import UserError


class SliceState(NamedTuple):
    """Where the machine, or slice of machines, of one attempt is in its life."""

    kind: str
    """absent, waiting, provisioning, ready, lost (taken away), refused (perhaps not for ever), failed
    (for ever) or deleting."""
    reason: str = ""
    """In words, for lost, refused and failed."""


class Refused(Exception):
    """There is no machine now, and there may be one later; its text says why."""


class Unreachable(UserError):
    """The service did not answer, for longer than the client tries; nothing is known."""


class LaunchError(UserError):
    """A machine cannot be had for a reason that only the user can mend."""


class Launcher(Protocol):
    """Machines of one job. Every method may be called again, also by another process, with the same effect.

    Args:
      config: configs.schema.RunConfig.
      job_path: the job's directory.
      facts: what was submitted (trainer/job_record.py): `directory`, which the config's local paths are
        relative to, and `wheel`, the name of the staged file.
    """

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

    def observe(self, attempt: int) -> SliceState:
        """Looks at an attempt's machine. Raises Unreachable, LaunchError."""

    def delete(self, attempt: int) -> None:
        """Begins to delete an attempt's machine; none is no error. Raises Unreachable, LaunchError."""

"""What a launcher does: requests, observes and deletes the machines that run a job's attempts."""

from typing import Any, ClassVar, NamedTuple, Protocol

from configs.errors import UserError
from configs.schema import RunConfig
from trainer.vm.log import JobFiles


class SliceState(NamedTuple):
    """State of the machine, or slice of machines, of one attempt."""

    kind: str
    """absent, waiting, provisioning, ready, lost (taken away), refused (a later request may succeed), failed
    (no request will succeed) or deleting."""
    reason: str = ""
    """In words, for lost, refused and failed, and for absent when the name belongs to something else."""


class Refused(Exception):
    """No machine is available now, but one may be later; the text says why."""


class Exists(Exception):
    """Something of the requested name exists already."""


class Unreachable(UserError):
    """The service did not answer for longer than the client retries; nothing is known."""


class LaunchError(UserError):
    """No machine can be requested until the user fixes something."""


class Slices(Protocol):
    """The machines that a job has, without the means to request more: enough to end a job.

    Every method may be repeated, also by another process, with the same effect.

    Args:
      job_path: the job's directory.
      launch: the launch section, a plain mapping; keys that are not needed here may be of another version.
    """

    noun: ClassVar[str]
    """What is left behind when a job is not cleaned up: `process`, `slice` or `JobSet`."""
    list_command: ClassVar[str]
    """Shell command that lists what may be left."""
    settle_seconds: float
    """How long a request may take to become visible after the process that sent it has died."""

    def __init__(self, job_path: str, launch: dict[str, Any]) -> None: ...

    def observe(self, attempt: int) -> SliceState:
        """State of an attempt's machine; absent when the machine is not this job's.

        Raises:
          Unreachable, LaunchError.
        """

    def delete(self, attempt: int) -> None:
        """Starts to delete an attempt's machine; does nothing when there is none, or it is not this job's.

        Raises:
          Unreachable, LaunchError.
        """

    def left(self, attempt: int) -> str:
        """What may be left of an attempt that could not be observed, and the command that deletes it."""

    def report(self, attempt: int, files: JobFiles) -> None:
        """Writes heartbeat, log and outcome of a machine that cannot reach the job's files; does nothing
        where it can. Only the supervisor calls it.

        Raises:
          Unreachable, LaunchError; OSError: the files cannot be written.
        """


class Launcher(Slices, Protocol):
    """Requests the machines of one job, and ends them.

    Args:
      config: the run.
      job_path: the job's directory.
      facts: what was submitted (trainer/jobs/record.py): `directory`, which the config's local paths are
        relative to, and `wheel`, the name of the staged file.
    """

    slices: ClassVar[type[Slices]]
    """Class of the part that needs the launch section only."""
    installs_wheel: ClassVar[bool]
    """Whether the machines install lazytower from the job's directory."""

    def __init__(self, config: RunConfig, job_path: str, facts: dict[str, Any]) -> None: ...

    is_here: ClassVar[bool]
    """Whether the run takes this machine's memory and disk."""

    @property
    def hidden(self) -> str | None:
        """What of the run this machine cannot see, so that it is not checked; None: nothing."""

    @property
    def claims(self) -> str | None:
        """Directory for the job's claim of its output, where this machine cannot reach that; else None."""

    def sized(self, forecast_bytes: int | None) -> RunConfig:
        """The config with what its launch section leaves open.

        Args:
          forecast_bytes: memory that the run needs on a host; None: not known.

        Raises:
          UserError: it cannot do without, or the config gives less.
        """

    def check_files(self) -> None:
        """Checks the config's paths and names without asking any service. Raises UserError."""

    def check(self) -> list[str]:
        """Asks the service, before anything is spent, whether the job can run; returns warnings, a line each.

        Raises:
          UserError: it cannot.
        """

    def describe(self, attempt: int) -> list[tuple[str, str]]:
        """What `create` would send, as (title, text)."""

    @property
    def installs_packages(self) -> bool:
        """Whether the machines also install the exact packages of constraints.txt."""

    @property
    def bill(self) -> dict[str, Any]:
        """Where the machines are and what they cost, for the job's facts: `project`, `zone`, `chips` and
        `price_per_chip_hour`; None or 0 where nothing is paid for."""

    @property
    def region(self) -> str | None:
        """Region of the machines; None: this machine."""

    @property
    def slice_name(self) -> str | None:
        """Type of the slice, such as v6e-4; None: this machine."""

    def create(self, attempt: int) -> None:
        """Requests an attempt's machine, unless it exists already.

        Raises:
          Refused, Unreachable, LaunchError.
        """

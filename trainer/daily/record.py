"""What is known of each day: day.json in its directory, replaced after each stage.

It holds no times and no process ids, so a day that was interrupted ends with the same bytes as one that was
not. A day whose name follows from its rows is prepared in a directory called PENDING, and gets its name by a
rename.
"""

import json
import os
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from configs.errors import DataError
from configs.schema import RunConfig
from configs.system import storage

DAY_STAGES = ("prepared", "trained", "evaluated", "decided", "exported", "pruned")
PENDING = "pending"
"""Directory of the day that has no name yet."""
_FILE = "day.json"


class DayRecord(BaseModel):
    """The content of day.json; a key is null until its stage is done."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    number: int = Field(ge=1)
    """Place among all days, from 1."""
    name: str | None
    """Null: that of the newest row's date, which is not known before the day is prepared."""
    files: list[str]
    """Its source files, as the command names them."""
    base: str | None
    """Directory of the dataset on which it stands."""
    source_run: str | None
    """Directory of the run that it starts from, whose model is served."""
    source_dataset: str | None = None
    """Directory of that run's dataset, if days without a served model came after it."""
    done: str | None = None
    """The last stage that is done, of DAY_STAGES."""
    rows: dict[str, int] | None = None
    """Rows by split."""
    new: dict[str, int] | None = None
    """New keys with a row of their own, by table: of users and items."""
    split: str | None = None
    """The split on which both models are compared."""
    metric: str | None = None
    protocol: str | None = None
    """How it was measured."""
    value: float | None = None
    """The new model's."""
    served_value: float | None = None
    """The served model's on the same rows; null: none was served."""
    accepted: bool | None = None
    reason: str | None = None
    """Why it was accepted or refused, in words."""
    version: int | None = None
    """The exported version; null: refused."""

    @property
    def is_done(self) -> bool:
        """Whether all stages are."""
        return self.done == DAY_STAGES[-1]

    @property
    def left(self) -> tuple[str, ...]:
        """Stages to come, in order."""
        return DAY_STAGES if self.done is None else DAY_STAGES[DAY_STAGES.index(self.done) + 1 :]


class DayFolder:
    """A day's directory.

    Args:
      days: directory of all days.
      record: what is known of the day.
      is_pending: whether its directory is PENDING.
    """

    def __init__(self, days: str, record: DayRecord, is_pending: bool = False):
        self._days, self.record, self.is_pending = days, record, is_pending

    @property
    def name(self) -> str:
        """Of the day, for people; before it has one, that of its directory."""
        return self.record.name or PENDING

    @property
    def path(self) -> str:
        """The directory."""
        return storage.join(self._days, PENDING if self.is_pending else self.name)

    @property
    def config(self) -> str:
        """File of the day's config."""
        return storage.join(self.path, "config.yaml")

    @property
    def dataset(self) -> str:
        """Directory of the day's dataset."""
        return storage.join(self.path, "dataset")

    @property
    def run(self) -> str:
        """Directory of the day's run."""
        return storage.join(self.path, "run")

    def write(self, **changes: Any) -> None:
        """Changes the record, on disk too."""
        self.record = DayRecord.model_validate(self.record.model_dump() | changes)
        storage.make_directory(self.path)
        content = json.dumps(self.record.model_dump(), indent=1, ensure_ascii=False)
        storage.write_bytes(storage.join(self.path, _FILE), content.encode())

    def settle(self) -> None:
        """Moves a day that has got its name to it.

        Raises:
          DataError: there is another day of that name.
        """
        if not self.is_pending or self.record.name is None:
            return
        target = storage.join(self._days, self.record.name)
        if storage.exists(target):
            raise DataError(
                f"{target}: there is a day of this name, of other files; name the new one with --name, or "
                f"delete {self.path} to leave it out"
            )
        os.rename(storage.filesystem(self.path)[1], storage.filesystem(target)[1])
        storage.sync_directory(self._days)
        self.is_pending = False


def days_path(config: RunConfig) -> str:
    """Directory of all days: day.path, or days beside the dataset."""
    if config.day.path is not None:
        return config.day.path.rstrip("/")
    parent, slash, _ = config.dataset.path.rstrip("/").rpartition("/")
    return f"{parent}{slash}days"


def read_days(path: str) -> list[DayFolder]:
    """All days in their order.

    Args:
      path: directory of all days; it may be missing.

    Raises:
      DataError: a day.json cannot be read.
    """
    found = [_read(path, name) for name in storage.names(path)]
    return sorted((day for day in found if day is not None), key=lambda day: day.record.number)


def _read(days: str, name: str) -> DayFolder | None:
    """The day in a directory; None: it holds none."""
    file = storage.join(days, name, _FILE)
    try:
        document = json.loads(storage.read_bytes(file))
        record = DayRecord.model_validate(document)
        if record.done is not None and record.done not in DAY_STAGES:
            raise ValueError(f"stage {record.done!r} is unknown")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    else:
        return DayFolder(days, record, is_pending=name == PENDING)
    raise DataError(
        f"{file}: not the record of a day of this version ({reason}); restore it, or delete "
        f"{storage.join(days, name)} to leave the day out"
    )

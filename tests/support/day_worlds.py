"""Random chains of days, and what they say of users and items, worked out from the raw rows."""

import collections
import dataclasses
import os

import numpy as np

from configs.manifest import SPLITS
from tests.support.day_chain import Day, DayRow, write_day

HOUR = 3600 * 10**9
START = 1_600_000_000 * 10**9


@dataclasses.dataclass
class DayWorld:
    """A chain with its rows."""

    days: list[list[DayRow]]
    leave: list[dict[str, set[bytes]]]
    written: list[Day]

    @property
    def top(self) -> Day:
        return self.written[-1]

    def since(self, side: str, key: bytes) -> int:
        """The first day whose rows of a key count: the newest on which it lost its row."""
        return max([0, *(day for day, gone in enumerate(self.leave) if key in gone.get(side, ()))])

    def rows(self, side: str, key: bytes) -> list[tuple[int, DayRow]]:
        """(day, row) of a user or item, oldest first."""
        since = self.since(side, key)
        return [
            (day, row)
            for day, rows in enumerate(self.days)
            for row in rows
            if day >= since and getattr(row, side) == key
        ]

    def keys(self, side: str) -> set[bytes]:
        """Those that the chain still has."""
        every = {getattr(row, side) for rows in self.days for row in rows}
        return {key for key in every if self.rows(side, key)}

    def id(self, table: str, key: bytes, day: int | None = None) -> int:
        """Id in the newest dataset of a key in rows of a day; that of unknown keys if it has left since."""
        ids = self.top.ids[table]
        left = day is not None and day < self.since(table, key)
        return ids.rows - 1 if left and not ids.hash_rows else ids.id(key)

    def count(self, side: str, key: bytes) -> int:
        """Positive rows of train, and of all splits of earlier days."""
        last = len(self.days) - 1
        rows = [(day < last or row.split == "train", row) for day, row in self.rows(side, key)]
        return sum(trains and row.label > 0 for trains, row in rows)

    def sequence(self, user: bytes) -> list[tuple[int, int]]:
        """(id of the item, split as seen from the newest dataset) of a user's positive rows."""
        last = len(self.days) - 1
        return [
            (self.id("item", row.item, day), SPLITS.index(row.split) if day == last else 0)
            for day, row in self.rows("user", user)
            if row.label > 0
        ]

    def trained(self, positives_only: bool, since: int | None = None) -> list[DayRow]:
        """What a run trains on: by default, or all rows not older than `since`."""
        last, found = len(self.days) - 1, []
        for day, rows in enumerate(self.days):
            for row in rows:
                held_out = row.split != "train"
                mine = held_out == (day < last) and day >= last - 1
                if since is not None:
                    mine = not (held_out and day == last) and row.time >= since
                if mine and (row.label > 0 or not positives_only):
                    found.append(row)
        return found


def day_rows(random: np.random.Generator, day: int, number: int = 60) -> list[DayRow]:
    """Rows of one day: new users and items come every day, the newest rows are held out."""
    rows = []
    for i in range(number):
        user, item = random.integers(4 * day, 20 + 4 * day), random.integers(3 * day, 14 + 3 * day)
        held_out = "train" if i < number * 0.7 else "valid" if i < number * 0.85 else "test"
        known = random.random() < 0.7
        rows.append(
            DayRow(
                b"u%d" % user,
                b"i%d" % item,
                START + (day * 24 + i * 24 // number) * HOUR + i,
                held_out,
                float(random.random() < 0.8),
                b"c%d" % (user % (3 + day)) if known else b"",
                float(item + day) if known else np.nan,
                tuple(b"t%d" % t for t in random.integers(0, 4 + day, random.integers(0, 4))),
            )
        )
    return rows


def write_world(directory: str, days: int = 3, leaves: bool = True, **options) -> DayWorld:
    """Writes a chain of random days, from the second on with keys that leave."""
    random, written = np.random.default_rng(days), []
    every = [day_rows(random, day) for day in range(days)]
    gone: list[dict[str, set[bytes]]] = []
    for day, rows in enumerate(every):
        leave = collections.defaultdict(set)
        if leaves and written:
            for table in ("user", "item", "country", "tags"):
                known = sorted(written[-1].ids[table].rows_of)
                leave[table] = set(known[1::6])
        gone.append(dict(leave))
        path = os.path.join(directory, f"day{day}")
        written.append(write_day(path, rows, written[-1] if written else None, leave=leave, **options))
    return DayWorld(every, gone, written)

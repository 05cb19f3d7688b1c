"""The ids stage over a chain of days without Beam, and what it must find, in plain Python."""

import collections
import itertools

import numpy as np
import pyarrow as pa

from configs.chain import LEFT, Moved, translated
from configs.dataset_parts import TableInfo
from pipelines.base.chain import Base, BaseTable, Layer
from pipelines.base.index import NEVER
from pipelines.job import Job, JobLayout
from pipelines.stages import ids
from pipelines.stages.count import CountKeys, SendParts
from pipelines.stages.members import Facts
from pipelines.stages.plan import Plan
from pipelines.stages.spool import read_table
from tests.support.prepared import configure

DAY = 24 * 3600 * 10**9
Key = collections.namedtuple("Key", "count held seen")


class Naive:
    """Ids of a table over a chain of days, key by key."""

    def __init__(self, has_catalog: bool):
        self.has_catalog = has_catalog
        self.rows: dict[str, int] = {}
        self.further: dict[str, int] = {}
        self.count: collections.Counter = collections.Counter()
        self.seen: dict[str, int] = {}
        self.size = 0  # rows but the out-of-vocabulary row
        self.catalog_rows = 1

    def day(self, own: dict[str, Key], newest: int, config) -> dict[str, int]:
        """Ids of the day's keys."""
        for key, facts in own.items():
            self.count[key] += facts.count
            self.seen[key] = max(facts.seen, self.seen.get(key, NEVER))
        since = NEVER if config.expire_days is None else newest - round(config.expire_days * DAY)
        idle = [key for key in self.rows if key not in own and self.seen[key] < since]
        idle.sort(key=lambda key: (self.seen[key], self.rows[key]))
        wanted = [
            key
            for key, count in self.count.items()
            if key not in self.rows and count >= config.min_count and (key in own or self.seen[key] >= since)
        ]
        wanted.sort(key=lambda key: (-self.count[key], key not in self.further, key.encode()))
        room = len(wanted) if config.max_rows is None else max(0, config.max_rows - 1 - self.size)
        old_size = self.size
        free = [(key, self.rows[key]) for key in idle[: len(wanted)]]
        for (old, row), key in zip(free, wanted, strict=False):
            self._forget(old)
            self.rows[key] = row
        for key in wanted[len(free) : len(free) + room]:
            self.rows[key] = self.size
            self.size += 1
        self.catalog_rows += self.size - old_size
        self.further = {
            key: i + self.size - old_size for key, i in self.further.items() if key not in self.rows
        }
        if self.has_catalog:
            for key in sorted(own, key=str.encode):
                if key not in self.rows and key not in self.further:
                    self.further[key] = self.catalog_rows
                    self.catalog_rows += 1
        for key, facts in own.items():
            self.count[key] += facts.held
        return {key: self.id_of(key) for key in own}

    def _forget(self, key: str) -> None:
        del self.rows[key], self.count[key], self.seen[key]

    def id_of(self, key: str) -> int:
        return self.rows.get(key, self.further.get(key, self.size))


class Chain:
    """The real stages, day after day.

    Args:
      path: directory of spool and index files.
      table: item, or that of a feature.
    """

    def __init__(self, path, table: str, splitters: list[str]):
        self._path, self._table, self._splitters = path, table, splitters
        self._base: Base | None = None
        self._layers: tuple[Layer, ...] = ()
        self._days = 0

    def day(self, shards: list[dict[str, Key]], newest: int, section: dict) -> "Found":
        """Ids of the day's keys, from user shards."""
        place = self._path / f"day{self._days}"
        (place / "spool").mkdir(parents=True)
        self._days += 1
        job = self._job(place, section)
        plan = Plan(splitters={self._table: self._splitters}, newest=newest)
        counted = self._counted(job, plan, shards)
        histograms = [out.value for out in counted if hasattr(out, "tag")]
        tables = ids.plan_ids(histograms, job, [self._table])
        found = Found(tables[self._table])
        before = self._base.tables[self._table] if self._base else None
        outputs = [
            out
            for element in counted
            if not hasattr(element, "tag")
            for out in ids.AssignIds(job).work(element, tables, plan)
        ]
        files = [out.value for out in outputs if getattr(out, "tag", "") == "files"]
        for shard, keys in enumerate(shards):
            found.add(shard, sorted(keys, key=str.encode), outputs)
        found.listed = {
            row["key"]: (row["id"], row["count"])
            for out in outputs
            if getattr(out, "tag", "") == "catalog"
            for row in read_table(out.value[1][2]).to_pylist()
        }
        found.pairs = [
            tuple(row.values())
            for out in outputs
            if getattr(out, "tag", "") == "moved"
            for row in read_table(out.value[1]).to_pylist()
        ]
        found.before = before
        paths = [f"{place}/{file.directory}/{file.name}" for file in sorted(files, key=lambda f: f.number)]
        new = found.table
        self._layers = (Layer(new.rows, new.keys, tuple(paths)), *self._layers)
        sizes = (new.rows, new.keys, new.catalog_rows or new.rows)
        self._base = Base((), {self._table: BaseTable(*sizes, self._layers, tuple(self._splitters))})
        return found

    def _job(self, place, section: dict) -> Job:
        source = {"kind": "delimited", "paths": ["x"], "roles": {"timestamp": "t"}}
        dataset = {"path": "x", "item_ids": section}
        if self._table != "item":
            source["features"] = [{"name": self._table, "of": "item", "kind": "categorical"}]
            dataset = {"path": "x", "feature_ids": {self._table: section}}
        config = configure(source, dataset)
        layout = JobLayout(f"{place}/spool", str(place), user_shards=8)
        return Job(config.source, config.dataset, layout, base=self._base)

    def _counted(self, job: Job, plan: Plan, shards: list[dict[str, Key]]) -> list:
        parts = collections.defaultdict(list)
        spool = ids.SpoolWriter(job.layout.spool, "sent")
        with spool:
            for (_, part), element in SendParts(job).work(self._table, plan):
                parts[part].append(element)
            for number, shard in enumerate(shards):
                keys = sorted(shard, key=str.encode)
                facts = Facts(*(np.array([shard[k][i] for k in keys], np.int64) for i in range(3)))
                array = pa.array(keys, pa.string())
                for part, slice_ in ids.send_keys(job, plan, self._table, array, facts, None):
                    parts[part].append((number, spool.add(slice_)))
        work = (CountKeys(job).work(((self._table, part), slices), plan) for part, slices in parts.items())
        return list(itertools.chain.from_iterable(work))


class Found:
    """What a day's ids stage gave out."""

    def __init__(self, table: ids.TableIds):
        self.table, self.ids = table, {}
        self.listed: dict[str, tuple[int, int]] = {}
        self.pairs: list[tuple[int, int]] = []
        self.before: BaseTable | None = None

    def add(self, shard: int, keys: list[str], outputs: list) -> None:
        """Takes the maps of a shard, whose keys are in byte order."""
        refs = [(out[1][2], out[1][3]) for out in outputs if not hasattr(out, "tag") and out[0] == shard]
        mine = [i for _, ref in sorted(refs) for i in read_table(ref)["id"].to_pylist()]
        for key, i in zip(keys, mine, strict=True):
            assert self.ids.setdefault(key, i) == i

    def carried(self, catalog_ids: list[int]) -> list[int]:
        """Ids here, or LEFT, of catalog ids of the base, by the rules that readers follow."""
        new, old = self.table, self.before
        info = TableInfo(
            ids="vocab", rows=new.rows, oov=new.keys, keys=new.keys, base_rows=old.rows, base_oov=old.oov
        )
        pairs = np.array(sorted(self.pairs), np.int64).reshape(-1, 2)
        found = translated(np.array(catalog_ids, np.int64), info, Moved(pairs[:, 0], pairs[:, 1]))
        return [int(i) for i in found]


__all__ = ["DAY", "LEFT", "Chain", "Found", "Key", "Naive"]

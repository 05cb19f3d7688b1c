"""Rows of a source for a ranking model: what the model reads of them, ranges as shards, and typed columns."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
from pydantic import TypeAdapter

from configs.errors import ConfigError, DataError
from configs.sections.dataset import DatasetConfig
from configs.sections.source_kinds.bigquery import BigQueryFormat
from configs.sections.sources import SourceConfig
from configs.system import storage
from pipelines.job import Job, plan_layout
from pipelines.rows.validate import validate
from pipelines.sources.identity import check_range, each, with_content
from pipelines.sources.reader import Place, Range, Reader, first_rows, make_reader

_SOURCE: TypeAdapter = TypeAdapter(SourceConfig)
_NO_ROLES: dict[str, Any] = {"label": None, "labels": {}, "timestamp": None, "weight": None, "split": None}


def read_part(source: Any, inputs: dict) -> str:
    """The part of a config's source that a model reads, as JSON: no labels, no times, no side tables.

    Args:
      source: section of a RunConfig.
      inputs: of the model, as lazytower.json has them.

    Raises:
      ConfigError: it is made up, or the model reads nothing of it.
    """
    if not getattr(source, "paths", None) and not isinstance(source, BigQueryFormat):
        raise ConfigError(
            f"source.kind {source.kind}: has no files or table; name the config of the rows to score"
        )
    roles = {name: getattr(source.roles, name) if inputs.get(name) else None for name in ("user", "item")}
    features = [feature for feature in source.features if feature.name in inputs["features"]]
    if not features and not any(roles.values()):
        raise ConfigError("source: has no column that the model reads; name the source of such rows")
    kept = source.model_copy(
        update={"roles": source.roles.model_copy(update=_NO_ROLES | roles), "features": features, "sides": []}
    )
    text: str = kept.model_dump_json()
    return text


class SourceRows(NamedTuple):
    """The rows of an output."""

    source: str
    """From `read_part`."""

    def reader(self) -> Reader:
        """Reads them."""
        return make_reader(_SOURCE.validate_json(self.source), plan_layout("", "", 0))

    def identity(self) -> dict[str, Any]:
        """What the manifest says of them: files, or tables with the time of their last change."""
        files = each(with_content, self.reader().files())
        return {"files": [{"file": f.name, "bytes": f.size, "content": f.content} for f in files]}

    def ranges(self) -> list[tuple[Range, Place]]:
        """All ranges, with the number of their first row; reads delimited text once, to count."""
        reader = self.reader()
        reader.setup()
        found = reader.ranges()
        places = first_rows(found, {part.index: reader.count(part) for part in found})
        return [(part, places[part.index]) for part in found]


class RangeReader:
    """Reads ranges in a worker.

    Args:
      source: from `read_part`.

    Attributes:
      job: what the columns are.
    """

    def __init__(self, source: str):
        self._reader = SourceRows(source).reader()
        self._reader.setup()
        self.job = Job(self._reader.config, DatasetConfig(path="none"), self._reader.layout)

    def tables(self, place: str, rejected: Counter) -> Iterator[pa.Table]:
        """The valid rows of a range, as pipelines.rows.validate.validate; others are counted by reason.

        `place`: from `as_text`.

        Raises:
          DataError: the range cannot be read, or has changed.
        """
        document = json.loads(place)
        part, first = Range(**document["range"]), Place(**document["place"])
        check_range(part.path, part.version)
        try:
            for piece in self._reader.read(part, first.row, first.line):
                table, rejects = validate(piece, self.job)
                rejected.update(reject.reason for reject in rejects)
                yield table
        except OSError as error:
            raise DataError(f"{part.path}: cannot be read ({error.strerror or error})") from None
        check_range(part.path, part.version)


def as_text(part: Range, place: Place) -> str:
    """A range for `RangeReader.tables`."""
    return json.dumps({"range": part._asdict(), "place": place._asdict()})


def source_paths(source: str) -> list[tuple[str, str]]:
    """(key, path) of what workers read."""
    paths = getattr(_SOURCE.validate_json(source), "paths", [])
    return [("source.paths", path) for path in paths if path and not storage.is_remote(path)]

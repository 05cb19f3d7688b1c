"""The Beam pipeline over the shards of a batch output."""

import time
from typing import NamedTuple

import apache_beam as beam
from absl import logging

from configs.system import storage
from trainer.batch.request import BatchOptions
from trainer.batch.shard import write_shard
from trainer.batch.tables.base import open_table
from trainer.batch.target import STATE, Shard


class BatchJob(NamedTuple):
    """What workers need to know."""

    model: str
    """A version's directory."""
    target: str
    """Directory of the output."""
    options: BatchOptions


class WriteShard(beam.DoFn):
    """Computes and finishes a shard; run again, it writes the same bytes to the same place."""

    def __init__(self, job: BatchJob):
        self._job = job

    def process(self, element: tuple):
        job, part, started = self._job, Shard(*element), time.monotonic()
        table = open_table(job.model, job.options)
        batches = table.batches(part, storage.join(job.target, STATE))
        schema, form = table.schema(part), job.options.format
        facts = write_shard(job.target, part.name, form, schema, batches, table.facts)
        rate = facts["rows"] / max(time.monotonic() - started, 1e-9)
        logging.info(
            "%s: %s rows, %.1f MB, %s rows/s",
            part.name,
            f"{facts['rows']:,}",
            facts["bytes"] / 1e6,
            f"{rate:,.0f}",
        )
        yield part.name


def build_scoring(pipeline: beam.Pipeline, job: BatchJob, parts: list[Shard]) -> None:
    """Adds the work on shards to a pipeline."""
    _ = (
        pipeline
        | "Shards" >> beam.Create([tuple(part) for part in parts])
        | "Spread" >> beam.Reshuffle()
        | "WriteShard" >> beam.ParDo(WriteShard(job))
    )

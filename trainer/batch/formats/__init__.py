"""Modules of file formats of batch outputs, by name; each has a class `Writer` (see base.py)."""

FORMATS = {
    "parquet": "trainer.batch.formats.parquet",
    "jsonl": "trainer.batch.formats.jsonl",
    "csv": "trainer.batch.formats.csv",
}

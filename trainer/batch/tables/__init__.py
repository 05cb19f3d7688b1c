"""Modules of what can be scored, by the value of --what; each has a class `Table` (see base.py)."""

TABLES = {
    "topk": "trainer.batch.tables.topk",
    "vectors": "trainer.batch.tables.vectors",
    "rows": "trainer.batch.tables.rows",
}

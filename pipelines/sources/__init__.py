"""Sources by kind: each module has a class `Reader` (see pipelines/sources/reader.py)."""

MODULES = {
    "bigquery": "pipelines.sources.bigquery",
    "delimited": "pipelines.sources.delimited",
    "jsonl": "pipelines.sources.jsonl",
    "parquet": "pipelines.sources.parquet",
    "synthetic": "pipelines.sources.synthetic",
    "synthetic_clicks": "pipelines.sources.synthetic_clicks",
    "tfrecord": "pipelines.sources.tfrecord",
}

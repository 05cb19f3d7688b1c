"""Benchmarks by name; each measures one part beside its peers."""

BENCHES = {
    "prepare": ("pipelines.bench", "raw interactions to a dataset, beside polars"),
    "optimizers": ("trainer.bench.optimizers", "a step of every table and optimizer, beside peers"),
    "scaling": ("trainer.bench.scaling", "a step's time over rows and batch, and the cost of averages"),
    "peers": ("trainer.bench.peers", "steps, prepare and a whole training beside other libraries"),
    "input": ("trainer.bench.input", "the reader alone, and how long training waits for it"),
    "retrieval": ("trainer.bench.retrieval", "the best items of a request: served indexes beside peers"),
    "defaults": ("trainer.bench.defaults", "what settings reach on prepared datasets, averaged and raw"),
    "users25m": ("trainer.bench.users25m", "the whole chain at 25 million users: time, memory, checkpoints"),
}

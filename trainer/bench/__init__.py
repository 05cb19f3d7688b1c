"""Benchmarks by name; each compares one part with its peers."""

BENCHES = {
    "prepare": ("pipelines.bench", "from raw interactions to a dataset, compared with polars"),
    "optimizers": ("trainer.bench.optimizers", "a step of every table and optimizer, compared with peers"),
    "scaling": ("trainer.bench.scaling", "step time by table rows and batch size, and the cost of averages"),
    "peers": (
        "trainer.bench.peers",
        "training steps, prepare and a whole training run, compared with other libraries",
    ),
    "input": ("trainer.bench.input", "speed of the reader alone, and how long training waits for it"),
    "retrieval": ("trainer.bench.retrieval", "top-k retrieval: served indexes compared with peers"),
    "score": ("trainer.bench.score", "the best items of many users, compared with other libraries"),
    "ranking": (
        "trainer.bench.ranking",
        "training steps of ranking models, compared with TFRS, PyTorch and TorchRec",
    ),
    "defaults": (
        "trainer.bench.defaults",
        "quality of settings on prepared datasets, with averaged and raw weights",
    ),
    "cluster": ("trainer.bench.cluster", "a training step over several hosts, compared with one process"),
    "days": ("trainer.bench.days", "a chain of warm starts, compared with training on all rows from nothing"),
    "arrivals": (
        "trainer.bench.arrivals",
        "planted days with users who come and go: bounded, unbounded and hashed tables compared",
    ),
    "users25m": ("trainer.bench.users25m", "all commands at 25 million users: time, memory, checkpoints"),
    "compare": ("trainer.bench.compare", "what changed between two runs of `bench users25m`"),
}

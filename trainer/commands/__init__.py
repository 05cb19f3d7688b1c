"""Sub-commands of `lazytower` by name; see trainer/cli.py."""

COMMANDS = {
    "prepare": ("pipelines.prepare", "turn raw interactions into a dataset (Apache Beam)"),
    "inspect": ("trainer.commands.inspect", "show what prepare made of the data"),
    "plan": ("trainer.commands.plan", "forecast memory, disk and time of a run"),
    "train": ("trainer.commands.train", "train a model, or resume a run"),
    "worker": ("trainer.commands.worker", "serve one host of a run over several (device.kind: cluster)"),
    "evaluate": ("trainer.commands.evaluate", "ranking metrics of a checkpoint, beside baselines"),
    "sweep": ("trainer.sweep.sweep", "search for good values of keys, each trial a run (Optuna)"),
    "compare": (
        "trainer.comparison.compare",
        "compare runs: configs, curves, metrics with intervals",
    ),
    "export": ("trainer.commands.export", "write and verify a SavedModel for serving"),
    "recommend": ("trainer.commands.recommend", "ask an exported model for items"),
    "predict": ("trainer.commands.predict", "ask an exported ranking model about rows"),
    "score": (
        "trainer.batch.score",
        "write lists for all users, vectors or predictions of rows (Apache Beam)",
    ),
    "compare-lists": ("trainer.batch.compare_lists", "compare two outputs of recommendations: what changes"),
    "day": ("trainer.commands.day", "the daily job: prepare, train, compare, and export unless it is worse"),
    "checkpoints": ("trainer.commands.checkpoints", "list, verify and compact the checkpoints of a run"),
    "doctor": ("trainer.commands.doctor", "check that this machine has what a run needs"),
    "submit": ("trainer.commands.submit", "run a config as a job, on this machine or on Cloud TPU"),
    "jobs": ("trainer.commands.jobs", "list, show, follow, supervise and cancel jobs"),
    "bench": ("trainer.commands.bench", "measure speed and memory beside peers"),
}

BEAM_COMMANDS = ("prepare", "score")
"""Those that pass flags which are not theirs to Apache Beam."""

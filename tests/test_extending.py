"""The recipes of docs/extending.md, followed: each toy is a file's content, a line in a registry, a section.

Nothing else of lazytower knows the toys, and the commands run them. `RunConfig` is extended here where a
contributor would add to a union in configs/sections.
"""

import json
import os
import sys
import textwrap
from typing import Annotated, Literal

import numpy as np
import pytest
import tensorflow as tf
import yaml
from pydantic import Field

import configs.load
from configs.schema import RunConfig
from configs.sections.base import of_kind
from configs.sections.export import BruteForceIndexConfig, ExportConfig
from configs.sections.launch import CommonLaunchConfig, LaunchConfig, LocalLaunchConfig
from configs.sections.models import DotBiasConfig, TwoTowerConfig
from configs.sections.optimizers import SGDConfig, TableOptimizer
from configs.sections.source_kinds.synthetic import SyntheticSourceConfig
from configs.sections.sources import SourceConfig
from configs.sections.tables import TableConfig
from pipelines.sources import MODULES as SOURCES
from tests.support.ranking_dataset import click_log
from tests.support.replays import replay_here
from tests.support.tiny_run import planted_document, write_planted
from trainer import cli
from trainer.bench import BENCHES
from trainer.embeddings import TABLE_KINDS
from trainer.embeddings.engines.rows import RecordTable
from trainer.evaluation.lists.metrics import OF_EXPOSURE, OF_ITEMS
from trainer.evaluation.metrics import AT_CUTOFF
from trainer.evaluation.pointwise.metrics import OF_ORDER, OF_SUMS, TERMS, OrderMetric, SumMetric
from trainer.indexes import MODULES as INDEXES
from trainer.launchers import LAUNCHERS
from trainer.launchers.local import Local
from trainer.models import MODELS
from trainer.models.dot_bias import DotBias
from trainer.optimizers import ROW_OPTIMIZERS
from trainer.optimizers.base import RowOptimizer
from trainer.serving import export


def lazytower(*arguments: str) -> None:
    """A command in this process, where the toys are registered."""
    assert cli.run(cli.parse(["lazytower", *arguments])) == 0


@pytest.fixture
def write_file(tmp_path, monkeypatch):
    """Writes a module that can be imported: the recipe's new file."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        written.append(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)


def known_to_configs(monkeypatch, **fields) -> None:
    """Adds to what fields of RunConfig may hold: (annotation, default), or the annotation alone."""
    body = {name: value[1] for name, value in fields.items() if isinstance(value, tuple)}
    kinds = {name: value[0] if isinstance(value, tuple) else value for name, value in fields.items()}
    monkeypatch.setattr(
        configs.load, "RunConfig", type("RunConfig", (RunConfig,), {"__annotations__": kinds, **body})
    )


def short_run(directory, **sections) -> str:
    """A run of a few steps on a dataset that is there; the config's path."""
    write_planted(str(directory))
    document = planted_document(str(directory))
    document["train"] |= {"num_steps": 4, "steps_per_loop": 2}
    del document["evaluate"], document["checkpoint"]
    path = directory / "run.yaml"
    path.write_text(yaml.safe_dump(document | sections))
    return str(path)


def results(directory) -> list[dict]:
    return json.loads((directory / "run" / "evaluate-test.json").read_text())["results"]


# A model.
class ToyModelConfig(DotBiasConfig):
    kind: Literal["toy"]


class ToyModel(DotBias):
    """Large scores cost extra."""

    def loss(self, activations, columns, step, share=None):
        users, items = self.user_vectors(activations, {}), self.item_vectors(activations, {})
        scores = tf.reduce_sum(users * items, axis=1)
        return super().loss(activations, columns, step, share) + 0.1 * tf.reduce_mean(scores**2)


@pytest.mark.slow
def test_a_model(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "toy", ToyModel)
    union = Annotated[TwoTowerConfig | DotBiasConfig | ToyModelConfig, Field(discriminator="kind")]
    known_to_configs(monkeypatch, model=union)
    config = short_run(tmp_path, model={"kind": "toy", "negatives": 2})
    lazytower("train", "--config", config)
    lazytower("evaluate", "--config", config)
    assert [line["scorer"] for line in results(tmp_path)].count("model") == 2  # averaged and raw


# An optimizer.
class ToyOptimizerConfig(SGDConfig):
    kind: Literal["toy"]


class ToyOptimizer(RowOptimizer):
    """Steps of equal length."""

    section = ToyOptimizerConfig

    def row_update(self, weight, slots, gradient, step, learning_rate):
        return weight - learning_rate * tf.sign(gradient), []


class _TableWithToyOptimizer(TableConfig):
    optimizer: TableOptimizer | ToyOptimizerConfig = SGDConfig(kind="sgd")


def test_an_optimizer_on_a_variable():
    variable = tf.Variable([[1.0, 1.0], [2.0, 2.0]])
    gradient = tf.IndexedSlices(tf.constant([[3.0, -0.1]]), tf.constant([1]), [2, 2])
    ToyOptimizer(learning_rate=0.5).apply_gradients([(gradient, variable)])
    np.testing.assert_allclose(variable.numpy(), [[1, 1], [1.5, 2.5]])


@pytest.mark.slow
def test_an_optimizer_on_tables(tmp_path, monkeypatch):
    monkeypatch.setitem(ROW_OPTIMIZERS, "toy", ToyOptimizer)
    known_to_configs(monkeypatch, tables=(dict[str, _TableWithToyOptimizer], {}))
    table = {"dim": 8, "optimizer": {"kind": "toy", "learning_rate": 0.01}}
    lazytower("train", "--config", short_run(tmp_path, tables={"user": table, "item": table}))
    assert os.listdir(tmp_path / "run" / "checkpoints")


# A kind of embedding.
class ToyTableConfig(TableConfig):
    kind: Literal["toy"]


class ToyTable(RecordTable):
    """Rows that start equal."""

    def initialize(self, stddev, seed, zero_row=None):
        super().initialize(0.0, seed, zero_row)


def toy_table(name, rows, options, optimizer, average, batch_size, storage_type=None):
    return (storage_type or ToyTable)(name, rows, options.dim, optimizer, average)


@pytest.mark.slow
def test_a_kind_of_embedding(tmp_path, monkeypatch):
    monkeypatch.setitem(TABLE_KINDS, "toy", toy_table)
    union = Annotated[TableConfig | ToyTableConfig, Field(discriminator="kind"), of_kind("table")]
    known_to_configs(monkeypatch, tables=(dict[str, union], {}))
    config = short_run(tmp_path, tables={"user": {"kind": "toy", "dim": 8}, "item": {"dim": 8}})
    lazytower("train", "--config", config)
    lazytower("evaluate", "--config", config)
    assert results(tmp_path)


# A launcher.
class ToyLaunchConfig(CommonLaunchConfig):
    kind: Literal["toy"]


class ToyLauncher(Local):
    def describe(self, attempt):
        return [("toy", f"attempt {attempt} is an errand")]


def test_a_launcher(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(LAUNCHERS, "toy", ToyLauncher)
    union = Annotated[LaunchConfig | ToyLaunchConfig, of_kind("local")]
    known_to_configs(monkeypatch, launch=(union, LocalLaunchConfig()))
    config = short_run(tmp_path, launch={"kind": "toy"})
    lazytower("submit", "--config", config, "--dry_run")
    assert "attempt 1 is an errand" in capsys.readouterr().out


# A source.
class ToySourceConfig(SyntheticSourceConfig):
    kind: Literal["toy"]


TOY_SOURCE = '''
    """Every user meets every item once."""

    import numpy as np
    import pyarrow as pa

    from pipelines.sources import reader
    from pipelines.sources.reader import Range, SourcePiece


    class Reader(reader.Reader):
        def files(self):
            return []

        def estimated_rows(self):
            return self.config.users * self.config.items

        def ranges(self):
            return [Range(i, "", i, i + 1) for i in range(self.config.users)]

        def count(self, part):
            return self.config.items

        def read(self, part, first_row, first_line):
            rows = first_row + np.arange(self.config.items)
            yield SourcePiece(
                columns={
                    "user": pa.array([f"user {part.start}"] * len(rows)),
                    "item": pa.array([f"item {i}" for i in range(len(rows))]),
                    "timestamp": pa.array(1_700_000_000 + rows),
                },
                rows=rows,
                lines=rows + 1,
                path="toy",
                raw=str,
            )
            return len(rows)
'''


@pytest.mark.slow
def test_a_source(tmp_path, monkeypatch, write_file):
    write_file("toy_source", TOY_SOURCE)
    monkeypatch.setitem(SOURCES, "toy", "toy_source")
    known_to_configs(monkeypatch, source=SourceConfig | ToySourceConfig)
    document = planted_document(str(tmp_path))
    document["source"] = {"kind": "toy", "rows": 1, "users": 20, "items": 30, "clusters": 2}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    lazytower("prepare", "--config", str(tmp_path / "run.yaml"))
    manifest = json.loads((tmp_path / "dataset" / "dataset.json").read_text())
    assert sum(split["rows"] for split in manifest["splits"].values()) == 20 * 30


# An index.
class ToyIndexConfig(BruteForceIndexConfig):
    kind: Literal["toy"] = "toy"
    min_recall: float = 1.0


class _ExportWithToyIndex(ExportConfig):
    index: BruteForceIndexConfig | ToyIndexConfig = ToyIndexConfig()


TOY_INDEX = '''
    """All scores at once."""

    import tensorflow as tf

    from trainer.indexes.base import NO_SCORE, BaseIndex


    class Index(BaseIndex):
        def search(self, users, banned, k):
            scores = tf.matmul(users, self._vectors[: self._servable], transpose_b=True)
            inside = banned[1] < self._servable
            places = tf.boolean_mask(tf.stack(banned, axis=1), inside)
            scores = tf.tensor_scatter_nd_update(scores, places, tf.fill(tf.shape(places)[:1], NO_SCORE))
            scores = tf.pad(scores, [[0, 0], [0, k]], constant_values=NO_SCORE)
            scores, rows = tf.math.top_k(scores, k)
            return scores, tf.cast(rows, tf.int64)
'''


@pytest.mark.slow
def test_an_index(tmp_path, monkeypatch, write_file, capsys):
    write_file("toy_index", TOY_INDEX)
    monkeypatch.setitem(INDEXES, "toy", "toy_index")
    known_to_configs(monkeypatch, export=(_ExportWithToyIndex, _ExportWithToyIndex()))
    monkeypatch.setattr(export, "replay_golden", replay_here)
    config = short_run(tmp_path, export={"index": {"kind": "toy"}})
    lazytower("train", "--config", config)
    lazytower("export", "--config", config)
    capsys.readouterr()
    lazytower("recommend", "--config", config, "--num_users=2", "--k=3", "--include_seen", "--format=jsonl")
    assert [len(json.loads(line)["items"]) for line in capsys.readouterr().out.splitlines()] == [3, 3]


# A metric.
def precision(ranks, number, k):
    hits = np.bincount(ranks.row_of_value[ranks.values <= k], minlength=len(ranks))
    return hits / k


@pytest.mark.slow
def test_a_metric_and_some_of_lists(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(AT_CUTOFF, "precision", precision)
    monkeypatch.setitem(OF_ITEMS, "rare", lambda counts: (counts < 10).astype(float))
    monkeypatch.setitem(OF_EXPOSURE, "most", lambda counts: float(counts.max()))
    config = short_run(tmp_path, evaluate={"k": [5]})
    lazytower("train", "--config", config)
    lazytower("evaluate", "--config", config)
    printed = capsys.readouterr().out
    assert all(f"{name}@5" in printed for name in ("precision", "rare", "most"))
    for line in results(tmp_path):
        assert 0 <= line["precision@5"] <= line["hr@5"]
        assert 0 <= line["lists"]["rare@5"] <= 1 <= line["lists"]["most@5"] <= line["users"]
        assert line["intervals"]["precision@5"] and line["intervals"]["most@5"] is None


# A metric of predictions.
def test_a_metric_of_predictions(tmp_path, monkeypatch, capsys):
    brier = SumMetric(lambda sums: sums["brier"] / sums["weight"], "no row has a weight above 0")
    monkeypatch.setitem(TERMS["bce"], "brier", lambda label, prediction: (label - prediction) ** 2)
    monkeypatch.setitem(OF_SUMS["bce"], "brier", brier)
    share = OrderMetric(lambda ranked: ranked.pos / ranked.all_pos, "no row is positive")
    monkeypatch.setitem(OF_ORDER["bce"], "recall_of_all", share)
    config = click_log(str(tmp_path), 300, train={"num_steps": 4, "steps_per_loop": 2}, checkpoint={})
    path = tmp_path / "run.yaml"
    path.write_text(configs.load.dump_config(config))
    lazytower("train", "--config", str(path))
    lazytower("evaluate", "--config", str(path))
    assert "brier" in capsys.readouterr().out
    for line in results(tmp_path):
        low, high = line["intervals"]["brier"]
        assert 0 < low < line["brier"] < high < 1 and line["recall_of_all"] == pytest.approx(1)


# A benchmark.
TOY_BENCH = '''
    """`lazytower bench toy`: how many additions are done."""


    def add_arguments(parser):
        parser.add_argument("--additions", type=int, default=10)


    def run(args):
        print("sum", sum(range(args.additions)))
        return 0
'''


def test_a_benchmark(monkeypatch, write_file, capsys):
    write_file("toy_bench", TOY_BENCH)
    monkeypatch.setitem(BENCHES, "toy", ("toy_bench", "additions"))
    lazytower("bench", "toy", "--additions", "5")
    assert capsys.readouterr().out == "sum 10\n"

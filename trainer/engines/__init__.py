"""Embedding engines of TPUs, by the `engine` of the slice (configs.tpu.Slice)."""

from trainer.engines.sparse_core import SparseCoreEngine
from trainer.engines.tpu_embedding import TpuEmbeddingEngine

ENGINES = {"tpu_embedding": TpuEmbeddingEngine, "sparse_core": SparseCoreEngine}

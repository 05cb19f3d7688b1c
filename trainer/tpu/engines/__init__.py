"""Embedding engines of TPUs, by the `engine` of the slice (configs.system.tpu.Slice)."""

from trainer.tpu.engines.sparse_core import SparseCoreEngine
from trainer.tpu.engines.tpu_embedding import TpuEmbeddingEngine

TPU_ENGINES = {"tpu_embedding": TpuEmbeddingEngine, "sparse_core": SparseCoreEngine}

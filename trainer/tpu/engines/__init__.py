"""TPU embedding engines, by the `engine` of a slice (configs.system.tpu.Slice)."""

from trainer.tpu.engines.sparse_core import SparseCoreEngine
from trainer.tpu.engines.tpu_embedding import TpuEmbeddingEngine

TPU_ENGINES = {"tpu_embedding": TpuEmbeddingEngine, "sparse_core": SparseCoreEngine}

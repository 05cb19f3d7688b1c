"""The SparseCores of TPU v5p and v6e: `tf.tpu.experimental.embedding.TPUEmbeddingV2`.

Tables are variables on the chips, and lookup and update are part of the step's program.
trainer/tpu/engines/layout.py computes where a row is stored.
"""

import numpy as np
import tensorflow as tf

from trainer.tpu.engines.base import Engine
from trainer.tpu.engines.layout import SparseCoreLayout


class SparseCoreEngine(Engine):
    """Keeps tables on SparseCores.

    Buffers are sized for the worst case, in which all ids of one SparseCore request rows of another; with
    smaller ones, an unexpectedly popular row would abort a run.
    """

    def build(self) -> None:
        """See Engine.build."""
        self._embedding = self._make()
        self._layouts = {n: SparseCoreLayout.of(p) for n, p in self._embedding.embedding_layouts.items()}
        self._allocate()
        # The host's copy: by table and part, one array per chip.
        self._copies: dict[tuple[str, str], list[np.ndarray]] = {
            (name, part): [np.zeros(layout.chip_shape, np.float32) for _ in range(layout.chips)]
            for name, layout in self._layouts.items()
            for part in self.parts(name)
        }

    def _make(self):
        api = tf.tpu.experimental.embedding
        cores = self.strategy.extended.tpu_hardware_feature.num_embedding_devices_per_chip
        most = {name: table.ids // cores for name, table in self.tables.items()}
        config = api.SparseCoreEmbeddingConfig(
            # So that each table has its own buffers and its own limit.
            disable_table_stacking=True,
            max_ids_per_table=most,
            max_unique_ids_per_table=most,
            # Creates the zeros on the chips, not on the host.
            enable_fast_table_initialization=True,
        )
        with self.strategy.scope():
            return api.TPUEmbeddingV2(
                self.features(),
                None,
                pipeline_execution_with_tensor_core=False,
                sparse_core_embedding_config=config,
            )

    def _allocate(self) -> None:
        """Creates the variables on the chips."""
        with self.strategy.scope():
            self._embedding.build()

    def feed(self, ids):
        """See Engine.feed; the step's program sorts the ids by SparseCore, on the host."""
        return ids

    def lookup(self, fed):
        """See Engine.lookup."""
        return self._embedding(fed)

    def apply(self, gradients, looked_up):
        """See Engine.apply."""
        self._embedding.apply_gradients(gradients, looked_up)

    def retrieve(self):
        """See Engine.retrieve."""
        for name in self.tables:
            for part in self.parts(name):
                self._copies[name, part] = self._get_chips(name, part)

    def load(self):
        """See Engine.load; frees the host's copy."""
        for (name, part), chips in self._copies.items():
            self._set_chips(name, part, chips)
        self.release()

    def release(self):
        """See Engine.release."""
        self._copies.clear()

    def _get_chips(self, name: str, part: str) -> list[np.ndarray]:
        """Copies one part of a table from the chips."""
        variable = self._embedding.variables[self._layouts[name].stack][part]
        return [np.array(variable.read_from_device(d)) for d in self.strategy.extended.worker_devices]

    def _set_chips(self, name: str, part: str, chips: list[np.ndarray]) -> None:
        """Overwrites one part of a table on the chips."""
        variable = self._embedding.variables[self._layouts[name].stack][part]
        for device, values in zip(self.strategy.extended.worker_devices, chips, strict=True):
            variable.assign_on_device(device, values)

    def _copy(self, name: str, part: str) -> list[np.ndarray]:
        if (name, part) not in self._copies:
            raise RuntimeError(f"table {name} has no copy on the host; call retrieve first")
        return self._copies[name, part]

    def read(self, name, part, ids):
        """See Engine.read."""
        return self._layouts[name].read(self._copy(name, part), ids)

    def write(self, name, part, ids, values):
        """See Engine.write."""
        self._layouts[name].write(self._copy(name, part), ids, np.asarray(values))

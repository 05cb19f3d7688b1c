"""Cases of the benchmarks in PyTorch, which is optional: they are measured when it is importable."""

import os
import sys
import warnings

import numpy as np

from trainer.bench.timing import GIB, NotMeasured, need_memory


def torch_case(rows: int, dim: int, optimizer: str, robe=None, threads: int = 0):
    """A case of torch.optim: sparse gradients, except for Adam and ROBE-Z, where they are dense.

    Raises:
      NotMeasured: PyTorch is not importable, or has no such optimizer.
    """
    torch = import_torch(threads)
    names = {"sgd": "SGD", "adagrad": "Adagrad", "adam": "Adam", "lazy_adam": "SparseAdam"}
    if optimizer not in names:
        raise NotMeasured(f"torch.optim has no {optimizer}")
    if robe is not None and optimizer == "lazy_adam":
        raise NotMeasured(
            "torch.optim.SparseAdam needs sparse gradients; those of an indexed array are dense"
        )
    values = rows * dim if robe is None else robe.size
    need_memory(4 * values * 6 / GIB + 2)
    torch.manual_seed(0)
    sparse = robe is None and optimizer != "adam"
    return _TorchCase(torch, rows, dim, getattr(torch.optim, names[optimizer]), sparse, robe)


def import_torch(threads: int):
    """The module torch, with so many threads (0: its own choice); NotMeasured when it is not importable."""
    # Threads that wait by spinning take the core from other threads, TensorFlow's included:
    # on a busy machine a step of 1 ms took 24.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Triton, which torch.optim of CUDA builds loads, crashes a process that has TensorFlow.
    sys.modules.setdefault("triton", None)  # type: ignore[arg-type]  # so that importing it is an ImportError
    try:
        import torch
    except ImportError:
        raise NotMeasured("torch is not importable") from None
    # Every sparse step would warn about a check that is off by default.
    warnings.filterwarnings("ignore", message="Sparse invariant checks are implicitly disabled")
    if threads:
        torch.set_num_threads(threads)
    return torch


class _TorchCase:
    """nn.Embedding, or an array indexed by the place of every value; trainer/bench/cases/tables.py has the
    model.
    """

    def __init__(self, torch, rows, dim, optimizer, sparse, robe):
        from trainer.embeddings.block_hash import BlockHash

        self._torch, self._dim, self._robe, self._sparse = torch, dim, robe, sparse
        shape = [rows, dim] if robe is None else [robe.size]
        self.weight = torch.nn.Parameter(0.05 * torch.randn(shape))
        if robe is not None:
            self._hash = BlockHash("bench", robe.seed, robe.size, dim, robe.block)
        self.optimizer = optimizer([self.weight], lr=1e-3)
        self.model_bytes = 4 * self.weight.numel()

    @property
    def state_bytes(self) -> int:
        """Of the slots, which are made in the first step."""
        slots = [value for slots in self.optimizer.state.values() for value in slots.values()]
        return sum(4 * value.numel() for value in slots if self._torch.is_tensor(value) and value.dim())

    def inputs(self, ids: np.ndarray, labels: np.ndarray):
        """The batch as tensors, outside the clock."""
        return self._torch.from_numpy(ids), self._torch.from_numpy(labels)

    def forward(self, ids, labels):
        """Lookup and loss."""
        functional = self._torch.nn.functional
        if self._robe is None:
            pairs = functional.embedding(ids, self.weight, sparse=self._sparse)
        else:
            pairs = self.weight[self._places(ids.reshape(-1))].reshape(-1, 2, self._dim)
        score = (pairs[:, 0] * pairs[:, 1]).sum(1)
        return functional.binary_cross_entropy_with_logits(score, labels)

    def _places(self, ids):
        """Places of all values of rows, int64 [n, dim]."""
        hashed = self._torch.from_numpy(self._hash(ids.numpy()))
        places = (hashed[:, None] + self._torch.arange(self._robe.block)) % self._robe.size
        return places.reshape(len(ids), -1)[:, : self._dim]

    def gradient(self, loss):
        """Backward pass."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()

    def update(self, state) -> None:
        """The optimizer."""
        self.optimizer.step()


class TorchRows:
    """Lookup, a given gradient and torch.optim.SparseAdam, as a case of trainer/bench/cases/rows.py.

    Raises:
      NotMeasured: PyTorch is not importable, or there is not enough memory.
    """

    def __init__(self, rows: int, dim: int, threads: int = 0):
        self._torch = torch = import_torch(threads)
        need_memory(4 * rows * dim * 3.2 / GIB + 1)
        self.weight = torch.nn.Parameter(torch.zeros(rows, dim))
        self._optimizer = torch.optim.SparseAdam([self.weight], lr=1e-3, eps=1e-7)

    def inputs(self, ids: np.ndarray, gradient: np.ndarray):
        """See trainer/bench/cases/rows.py."""
        return self._torch.from_numpy(ids), self._torch.from_numpy(gradient)

    def steps(self, inputs) -> None:
        """See trainer/bench/cases/rows.py."""
        batches, gradient = inputs
        for ids in batches:
            self._optimizer.zero_grad(set_to_none=True)
            self._torch.nn.functional.embedding(ids, self.weight, sparse=True).backward(gradient)
            self._optimizer.step()

    def close(self) -> None:
        """Does nothing: the garbage collector frees the table."""


class FbgemmRows:
    """FBGEMM's table-batched embedding on a CPU, whose backward pass is the update; no Adam there.

    Args:
      optimizer: name in fbgemm_gpu.split_embedding_configs.EmbOptimType.
      rows, dim, threads: of the table.

    Raises:
      NotMeasured: FBGEMM is not importable, or there is not enough memory.
    """

    def __init__(self, optimizer: str, rows: int, dim: int, threads: int = 0):
        self._torch = torch = import_torch(threads)
        try:
            from fbgemm_gpu import split_table_batched_embeddings_ops_common as shapes
            from fbgemm_gpu import split_table_batched_embeddings_ops_training as training
            from fbgemm_gpu.split_embedding_configs import EmbOptimType
        except (ImportError, OSError) as error:  # OSError: made for another version of PyTorch
            first_line = str(error).strip().splitlines()[0]
            raise NotMeasured(f"fbgemm_gpu is not importable: {first_line[:100]}") from None
        need_memory(4 * rows * dim * 1.2 / GIB + 1)
        place = (shapes.EmbeddingLocation.HOST, training.ComputeDevice.CPU)
        self._table = training.SplitTableBatchedEmbeddingBagsCodegen(
            [(rows, dim, *place)],
            optimizer=EmbOptimType[optimizer],
            learning_rate=1e-3,
            pooling_mode=shapes.PoolingMode.SUM,  # over bags of one id each
        )
        self.weight = self._table.split_embedding_weights()[0]
        with torch.no_grad():
            self.weight.zero_()

    def inputs(self, ids: np.ndarray, gradient: np.ndarray):
        """See trainer/bench/cases/rows.py."""
        torch = self._torch
        return torch.from_numpy(ids), torch.arange(ids.shape[1] + 1), torch.from_numpy(gradient)

    def steps(self, inputs) -> None:
        """See trainer/bench/cases/rows.py."""
        batches, offsets, gradient = inputs
        for ids in batches:
            self._table(ids, offsets).backward(gradient)

    def close(self) -> None:
        """Does nothing: the garbage collector frees the table."""

"""Cases of the benchmarks in PyTorch, which is no dependency: they are measured when it is importable."""

import warnings

import numpy as np

from trainer.bench_timing import GIB, NotMeasured, need_memory


def torch_case(rows: int, dim: int, optimizer: str, robe=None, threads: int = 0):
    """A case of torch.optim: sparse gradients, except for Adam and ROBE-Z, where they are dense.

    Raises:
      NotMeasured: PyTorch is not importable, or has no such optimizer.
    """
    try:
        import torch
    except ImportError:
        raise NotMeasured("torch is not importable") from None

    names = {"sgd": "SGD", "adagrad": "Adagrad", "adam": "Adam", "lazy_adam": "SparseAdam"}
    if optimizer not in names:
        raise NotMeasured(f"torch.optim has no {optimizer}")
    if robe is not None and optimizer == "lazy_adam":
        raise NotMeasured(
            "torch.optim.SparseAdam needs sparse gradients; those of an indexed array are dense"
        )
    # A notice of every sparse step, about a check that is off by default.
    warnings.filterwarnings("ignore", message="Sparse invariant checks are implicitly disabled")
    if threads:
        torch.set_num_threads(threads)
    values = rows * dim if robe is None else robe.size
    need_memory(4 * values * 6 / GIB + 2)
    torch.manual_seed(0)
    sparse = robe is None and optimizer != "adam"
    return _TorchCase(torch, rows, dim, getattr(torch.optim, names[optimizer]), sparse, robe)


class _TorchCase:
    """nn.Embedding, or an array indexed by the place of every value; bench_cases.py has the model."""

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

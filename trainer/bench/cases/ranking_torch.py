"""Training steps of `bench ranking` in PyTorch: DLRM and DCN-v2 with sparse embedding bags, and TorchRec.

trainer/bench/cases/ranking.py describes the model and what a case is.
"""

import numpy as np

from trainer.bench.cases.ranked_model import ACCUMULATOR, RANKED_EPSILON, RATES, RankedModel, RankedWeights
from trainer.bench.cases.torch import import_torch
from trainer.bench.timing import NotMeasured


class TorchRanking:
    """nn.EmbeddingBag(sparse=True) and nn.Linear under torch.optim.SparseAdam and Adam, Adagrad or SGD.

    Args:
      model, weights: what to train.
      threads: 0: one per core.

    Raises:
      NotMeasured: PyTorch is not importable.
    """

    def __init__(self, model: RankedModel, weights: RankedWeights, threads: int):
        self._torch = torch = import_torch(threads)
        self._model = model
        self.tables = {name: _bag(torch, table) for name, table in weights.tables.items()}
        self._bottom, self._top = (_stack(torch, kernels) for kernels in (weights.bottom, weights.top))
        self._bottom.append(torch.nn.ReLU())
        self._crosses = [_linear(torch, kernel) for kernel in weights.crosses]
        self._pairs = torch.tril_indices(model.vectors, model.vectors, offset=-1)
        parts = [self._bottom, self._top, *self._crosses]
        dense = [weight for part in parts for weight in part.parameters()]
        rows = [bag.weight for bag in self.tables.values()]
        self._optimizers = _optimizers(torch, model.optimizer, rows, dense)

    def inputs(self, batch: dict[str, np.ndarray]):
        """See trainer/bench/cases/ranking.py."""
        tensor = self._torch.from_numpy
        keys = [tensor(batch[name]) for name in self.tables]
        numbers = tensor(np.stack([batch[name] for name in self._model.numbers], axis=1))
        return keys, self._torch.arange(len(keys[0])), numbers, tensor(batch["label"])

    def step(self, inputs) -> float:
        """See trainer/bench/cases/ranking.py."""
        keys, offsets, numbers, labels = inputs
        rows = [bag(ids, offsets) for bag, ids in zip(self.tables.values(), keys, strict=True)]
        bottom = self._bottom(numbers)
        interacted = (self._crossed if self._crosses else self._products)([*rows, bottom])
        logits = self._top(self._torch.cat([bottom, interacted], 1)).squeeze(1)
        return _applied(self._torch, self._optimizers, logits, labels)

    def _products(self, vectors: list):
        """As DLRM: the products of all pairs."""
        stacked = self._torch.stack(vectors, 1)
        products = self._torch.bmm(stacked, stacked.transpose(1, 2))
        return products[:, self._pairs[0], self._pairs[1]]

    def _crossed(self, vectors: list):
        first = crossed = self._torch.cat(vectors, 1)
        for layer in self._crosses:
            crossed = first * layer(crossed) + crossed
        return crossed


class TorchRecRanking:
    """torchrec.models.dlrm.DLRM with an EmbeddingBagCollection under the optimizers of TorchRanking.

    Its bags are made sparse: by default their gradients are as large as the tables.

    Args: as TorchRanking.

    Raises:
      NotMeasured: PyTorch or TorchRec is not importable, or the model has crosses.
    """

    def __init__(self, model: RankedModel, weights: RankedWeights, threads: int):
        self._torch = torch = import_torch(threads)
        if model.crosses:
            raise NotMeasured("torchrec has no full-rank crosses")
        try:
            from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
            from torchrec.models.dlrm import DLRM
        except (ImportError, OSError) as error:  # OSError: made for another version of PyTorch
            first_line = str(error).strip().splitlines()[0]
            raise NotMeasured(f"torchrec is not importable: {first_line[:100]}") from None
        self._ragged, self._names, self._numbers = KeyedJaggedTensor, list(model.rows), model.numbers
        sections = [
            EmbeddingBagConfig(name=name, embedding_dim=model.dim, num_embeddings=rows, feature_names=[name])
            for name, rows in model.rows.items()
        ]
        bags = EmbeddingBagCollection(tables=sections)
        bottom, top = [*model.bottom, model.dim], [*model.top, 1]
        self._dlrm = DLRM(bags, len(model.numbers), bottom, top)
        self.tables = dict(bags.embedding_bags.items())
        for name, bag in self.tables.items():
            bag.sparse = True
            bag.weight.data = torch.from_numpy(weights.tables[name].copy())
        first, *others = weights.top
        dense = [part for part in self._dlrm.modules() if isinstance(part, torch.nn.Linear)]
        for linear, kernel in zip(dense, [*weights.bottom, _reordered(model, first), *others], strict=True):
            _assign(torch, linear, kernel)
        rows = [bag.weight for bag in self.tables.values()]
        parameters = [weight for linear in dense for weight in linear.parameters()]
        self._optimizers = _optimizers(torch, model.optimizer, rows, parameters)

    def inputs(self, batch: dict[str, np.ndarray]):
        """See trainer/bench/cases/ranking.py."""
        tensor = self._torch.from_numpy
        values = tensor(np.concatenate([batch[name] for name in self._names]))
        lengths = self._torch.ones(len(values), dtype=self._torch.int64)
        keys = self._ragged.from_lengths_sync(self._names, values, lengths)
        numbers = tensor(np.stack([batch[name] for name in self._numbers], axis=1))
        return numbers, keys, tensor(batch["label"])

    def step(self, inputs) -> float:
        """See trainer/bench/cases/ranking.py."""
        numbers, keys, labels = inputs
        logits = self._dlrm(numbers, keys).squeeze(1)
        return _applied(self._torch, self._optimizers, logits, labels)


def _reordered(model: RankedModel, kernel: np.ndarray) -> np.ndarray:
    """The first kernel of `top` for TorchRec, whose vectors begin with the output of `bottom`, and whose
    products are those of the upper triangle."""
    number = model.vectors
    place = np.zeros([number, number], np.int64)
    place[np.tril_indices(number, -1)] = np.arange(number * (number - 1) // 2)
    ours = np.roll(np.arange(number), 1)  # our vector at each of its places
    first, second = (ours[index] for index in np.triu_indices(number, 1))
    places = place[np.maximum(first, second), np.minimum(first, second)]
    return np.concatenate([kernel[: model.dim], kernel[model.dim :][places]])


def _bag(torch, table: np.ndarray):
    weight = torch.from_numpy(table.copy())
    return torch.nn.EmbeddingBag.from_pretrained(weight, freeze=False, mode="sum", sparse=True)


def _stack(torch, kernels: list[np.ndarray]):
    """Linear layers with ReLU between them."""
    layers = [layer for kernel in kernels for layer in (_linear(torch, kernel), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers[:-1])


def _linear(torch, kernel: np.ndarray):
    linear = torch.nn.Linear(*kernel.shape)
    _assign(torch, linear, kernel)
    return linear


def _assign(torch, linear, kernel: np.ndarray) -> None:
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(kernel.T))
        linear.bias.zero_()


def _optimizers(torch, name: str, rows: list, dense: list) -> list:
    rate = RATES[name]
    if name == "lazy_adam":
        lazy = torch.optim.SparseAdam(rows, lr=rate, eps=RANKED_EPSILON)
        return [lazy, torch.optim.Adam(dense, lr=rate, eps=RANKED_EPSILON)]
    if name == "adagrad":
        both = {"lr": rate, "initial_accumulator_value": ACCUMULATOR, "eps": RANKED_EPSILON}
        return [torch.optim.Adagrad([*rows, *dense], **both)]
    return [torch.optim.SGD([*rows, *dense], lr=rate)]


def _applied(torch, optimizers: list, logits, labels) -> float:
    """The loss, after the backward pass and the update."""
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return float(loss.detach())

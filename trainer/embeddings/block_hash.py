"""Places of a row's blocks under ROBE-Z: universal hashing of (row, block) to a place in the array.

Desai, Chou & Shrivastava, "Random Offset Block Embedding Array (ROBE) for CriteoTB Benchmark MLPerf DLRM
Model: 1000x Compression and 3.1x Faster Inference" (MLSys 2022), the section on ROBE-Z:

  h(e, x, c) = ((A e + B x + C c + D) mod P) mod |M|

for table e, row x and block c of the row; value i of the row is M[(h(e, x, i // Z) + i mod Z) mod |M|], the
array M being circular. Here each table has its own array, so A e is a constant and part of D.
"""

import hashlib

import numpy as np

# A Mersenne prime greater than every row and place; products of two values below it fit in int64.
PRIME = 2**31 - 1


class BlockHash:
    """The hash function of one table.

    Args:
      name, seed: fix B, C and D, through SHA-256: the streams of Python's and NumPy's generators may change.
      size: |M|, values of the array, below PRIME.
      dim: width of a row.
      block: Z.
    """

    def __init__(self, name: str, seed: int, size: int, dim: int, block: int):
        self.size, self.blocks = size, -(-dim // block)
        self.b, self.c = (1 + self._draw(f"{seed}/{name}/{letter}", PRIME - 1) for letter in "BC")
        self.d = self._draw(f"{seed}/{name}/D", PRIME)
        places = (self.c * block_number + self.d for block_number in range(self.blocks))
        self._of_block = np.array([place % PRIME for place in places], np.int64)

    @staticmethod
    def _draw(text: str, below: int) -> int:
        return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") % below

    def __call__(self, ids):
        """Places of the first value of each block of rows.

        Args:
          ids: int64 [n], tensor or array, 0 <= id < PRIME.

        Returns:
          int64 [n * blocks] in 0 .. size - 1; tensor or array, as `ids`.
        """
        # B x + (C c + D) mod P stays below 2^62 + 2^31.
        hashed = (self.b * ids[:, None] + self._of_block) % PRIME % self.size
        return hashed.reshape(-1) if isinstance(hashed, np.ndarray) else _flat(hashed)


def _flat(hashed):
    import tensorflow as tf

    return tf.reshape(hashed, [-1])

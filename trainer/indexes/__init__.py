"""Modules of indexes for serving, by kind; each has a class `Index` (see trainer/indexes/base.py)."""

MODULES = {
    "brute_force": "trainer.indexes.brute_force",
    "scann": "trainer.indexes.scann",
}

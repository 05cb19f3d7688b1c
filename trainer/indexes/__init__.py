"""Indexes of served models, by kind: each module has a class `Index` (see trainer/indexes/base.py)."""

MODULES = {
    "brute_force": "trainer.indexes.brute_force",
    "scann": "trainer.indexes.scann",
}

"""Kinds of embeddings, by the `kind` of their section in the config."""

from trainer.embeddings.robe_z import RobeZ
from trainer.embeddings.table import plain_table

TABLE_KINDS = {"table": plain_table, "robe_z": RobeZ}

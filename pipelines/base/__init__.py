"""Datasets that stand on another (dataset.base): opening and checking the chain below, the index of its keys,
and ids that continue.
"""

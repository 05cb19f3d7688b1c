"""Names of TPU slices: what their number counts, and what is refused."""

import pytest

from configs.errors import ConfigError
from configs.system.tpu import common_slices, tpu_slice


@pytest.mark.parametrize(
    ("name", "chips", "gib"),
    [
        ("v2-8", 4, 14.96),
        ("v3-8", 4, 30.96),
        ("v3-2048", 1024, 30.96),
        ("v4-8", 4, 30.5),
        ("v5p-8", 4, 95.73),
        ("v5p-128", 64, 95.73),
        ("v6e-1", 1, 31.24),
        ("v6e-256", 256, 31.24),
    ],
)
def test_chips_and_memory(name, chips, gib):
    found = tpu_slice(name)
    assert (found.name, found.chips) == (name, chips)
    assert found.bytes_per_chip / 2**30 == pytest.approx(gib, abs=1e-6)


@pytest.mark.parametrize(
    "name", ["v7-8", "v5p", "v5p-", "v5p-0", "8", "", "V5P-8", "v5p-8-1", "v5p-x", "gpu-8"]
)
def test_unknown_names_list_the_generations(name):
    with pytest.raises(ConfigError, match=r"not a TPU slice; .*\(v2, v3, v4, v5e, v5p, v6e\).*such as v5p-8"):
        tpu_slice(name)


def test_odd_numbers_of_cores_and_slices_that_replicate():
    with pytest.raises(
        ConfigError, match="v4-9: not a TPU slice; v4 counts TensorCores; use a multiple of 2"
    ):
        tpu_slice("v4-9")
    for name in ("v5e-8", "v5litepod-8"):
        with pytest.raises(ConfigError, match=f"{name}: v5e replicates every table on every chip"):
            tpu_slice(name)


def test_the_common_ones_are_all_valid():
    names = [found.name for found in common_slices()]
    assert {"v2-8", "v3-32", "v4-64", "v5p-8", "v6e-256"} <= set(names) and len(set(names)) == len(names)
    assert not any(name.startswith("v5e") for name in names)

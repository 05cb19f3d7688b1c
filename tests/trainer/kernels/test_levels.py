"""Which levels of x86-64 processors run, by their flags in /proc/cpuinfo."""

import pytest

from trainer.kernels.levels import LEVELS, levels, processor

pytestmark = pytest.mark.any_python

HASWELL = "fpu sse4_2 abm movbe avx avx2 bmi1 bmi2 f16c fma xsave"
SKYLAKE_SERVER = f"{HASWELL} avx512f avx512dq avx512cd avx512bw avx512vl"


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ("fpu sse4_2 avx", []),
        (HASWELL.replace(" fma", ""), []),
        (HASWELL, ["x86-64-v3"]),
        (f"{HASWELL} avx512f", ["x86-64-v3"]),  # as the first Xeon Phi, without the rest
        (SKYLAKE_SERVER, ["x86-64-v4", "x86-64-v3"]),
        (f"{SKYLAKE_SERVER} avx512_bf16", ["x86-64-v4-bf16", "x86-64-v4", "x86-64-v3"]),
    ],
)
def test_the_best_level_comes_first(flags, names):
    assert [level.name for level in levels(f"flags\t\t: {flags}\n")] == names


def test_other_architectures_have_none():
    assert levels("Features\t: fp asimd evtstrm aes\n") == levels("") == []


def test_this_processor_is_described():
    assert ":" in processor() and set(levels(processor())) <= set(LEVELS)

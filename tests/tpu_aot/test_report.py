"""What scripts/tpu_aot.sh treats as a failure."""

import pytest

from tests.tpu_aot.report import executed_problems, problems_of, reason

TOO_LARGE = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for "
    "HLO temporaries (49.62G) exceeds available HBM (31.24G). HLO module: a_inference_device_38438__.1723."
)
TOO_MANY = (
    "INVALID_ARGUMENT: E3001: No viable logical replica count for the embedding table with metadata: "
    "max_nz_per_row = 8192, max_unique_nz_per_row = 8192, feature_width = 32"
)
FITS = {
    "expect": "fits",
    "arrays": 8,
    "layout": "{1,0:T(8)}",
    "forecast": 1_000_000,
    "dense": 0,
    "arguments": 1_010_000,
    "outputs": 1_000_500,
    "aliased": 1_000_400,
    "temporary": 20_000,
    "lookups": [(8, 40), (16, 8)],
    "sparse_cores": 2,
    "replicas": 4,
}


def test_a_step_in_the_forecast_bytes_is_as_it_must_be():
    assert problems_of(FITS) == []
    assert problems_of(FITS | {"temporary": 120_000, "dense": 8_000}) == []


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"temporary": 120_000}, "1130100 bytes in all, the forecast is 1000000, 0 of dense layers"),
        ({"temporary": 123_000, "dense": 8_000}, "1133100 bytes in all"),
        ({"arguments": 1_105_000}, "1125100 bytes in all"),
        ({"aliased": 999_000}, "999000 bytes are updated in place, the tables are 1000000"),
        ({"aliased": 1_002_000, "outputs": 1_002_000}, "1002000 bytes are updated in place"),
        ({"error": TOO_LARGE}, "exceeds available HBM"),
        ({"expect": "too large"}, "compiled, and must be refused"),
        ({"expect": "too large", "error": TOO_MANY}, "refused for another reason"),
        ({"expect": "too many ids", "error": TOO_LARGE}, "refused for another reason"),
        ({"arrays": 0, "temporary": 1 << 30}, "1073741824 temporary bytes"),
    ],
)
def test_what_is_not_as_it_must_be_is_said(changed, problem):
    (found,) = problems_of(FITS | changed)
    assert problem in found


def test_refusals_that_are_expected_are_no_problem():
    assert problems_of({**FITS, "expect": "too large", "error": TOO_LARGE}) == []
    assert problems_of({**FITS, "expect": "too many ids", "error": TOO_MANY}) == []
    assert reason(TOO_LARGE).endswith("(49.62G) exceeds available HBM (31.24G)")
    assert reason(TOO_MANY).endswith("max_nz_per_row = 8192")


def test_programs_that_ran_must_agree():
    good = {"rows": {"moved by": 0.03, "weight, TF-Addons": 2e-7}, "replicas": 1e-6}
    assert executed_problems(good) == []
    for bad in (
        {**good, "rows": {"moved by": 0.03, "weight, TF-Addons": 2e-6}},
        {**good, "rows": {"moved by": 0.03, "weight, TF-Addons": float("nan")}},
        {**good, "rows": {"moved by": 0.0, "weight, TF-Addons": 0.0}},
        {**good, "replicas": 1e-3},
    ):
        assert len(executed_problems(bad)) == 1

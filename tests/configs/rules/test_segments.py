"""Names in evaluate.by and evaluate.diversity."""

import pytest
from pydantic import ValidationError

from configs.schema import RunConfig
from tests.support.documents import delimited, document, feature

pytestmark = pytest.mark.any_python

FEATURES = [
    feature("country"),
    feature("brand", "item"),
    feature("age", "user", "numeric"),
    feature("hour", "context"),
]


def config(evaluate: dict, time: str | None = "t", features=FEATURES) -> RunConfig:
    roles = {"timestamp": time} if time else {}
    source = delimited(roles=roles, features=features)
    split = {"kind": "temporal" if time else "random"}
    return RunConfig.model_validate(
        document(source=source, evaluate=evaluate, dataset={"path": "d", "split": split})
    )


def test_names_of_retrieval_models():
    evaluate = {"by": ["activity", "age", "country", "brand"], "diversity": ["vectors", "brand"]}
    evaluate |= {"by_values": 3, "bootstrap": 7, "confidence": 0.5}
    found = config(evaluate)
    assert found.evaluate.by == evaluate["by"]
    assert RunConfig.model_validate(found.model_dump(mode="json")) == found


@pytest.mark.parametrize(
    ("evaluate", "said"),
    [
        (
            {"by": ["county"]},
            "evaluate.by: 'county' is not activity, age, or a feature of users or items with keys or "
            "buckets; known: activity, age, country, brand",
        ),
        ({"by": ["hour"]}, "evaluate.by: 'hour' is not activity, age, or a feature of users or items"),
        (
            {"diversity": ["country"]},
            "evaluate.diversity: 'country' is not vectors, or an item feature with keys or buckets",
        ),
        ({"diversity": ["brand", "brand"]}, "diversity names 'brand' twice; name it once"),
        ({"diversity": ["brand"], "protocol": "sampled"}, "diversity requires protocol: full"),
    ],
)
def test_names_that_do_not_exist(evaluate, said):
    with pytest.raises(ValidationError) as error:
        config(evaluate)
    assert said in str(error.value)


def test_age_requires_timestamps_unless_it_is_a_feature():
    with pytest.raises(ValidationError, match="evaluate.by: age requires timestamps; name their column"):
        config({"by": ["age"]}, time=None)
    bucketed = {**feature("age", "user", "numeric"), "buckets": {"boundaries": [18, 30]}}
    assert config({"by": ["age"]}, None, [bucketed]).evaluate.by == ["age"]
    assert config({"by": ["activity"]}, None).evaluate.by == ["activity"]

"""The planted click log: any range of rows can be made anywhere, clicks follow the probabilities, and each
part of the logit is what the formulas say."""

import numpy as np
import pytest

from configs.planted.clicks import RARE, WEIGHTS, PlantedClicks, draw_keys, key_shares
from configs.schema import RunConfig
from configs.sections.source_kinds.synthetic import SyntheticClicksSourceConfig


def planted(**keys) -> PlantedClicks:
    source = {"rows": 50_000, "categorical": [40, 7, 300, 1], "numbers": 3, "list_keys": 20, "seed": 3}
    return PlantedClicks(SyntheticClicksSourceConfig(kind="synthetic_clicks", **{**source, **keys}))


def columns(rows) -> list[np.ndarray]:
    return [*rows.keys, *rows.numbers, rows.lengths, rows.probability, rows.clicked, rows.timestamps]


@pytest.mark.parametrize("keys", [{}, {"users": 9, "items": 30, "key_zipf": 0.7}, {"list_keys": 0}], ids=str)
def test_any_chunking_gives_the_same_rows(keys):
    whole = planted(**keys).rows(100, 900)
    other = planted(**keys)
    parts = [other.rows(start, min(start + 77, 900)) for start in range(100, 900, 77)]
    for column, pieces in zip(columns(whole), zip(*map(columns, parts), strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(pieces), column)
    np.testing.assert_array_equal(np.concatenate([part.members for part in parts]), whole.members)
    assert len(whole.members) == whole.lengths.sum()
    assert not np.array_equal(columns(planted(**keys, seed=4).rows(100, 900))[0], columns(whole)[0])


@pytest.mark.parametrize("zipf", [0.0, 0.7, 1.0, 1.5])
def test_keys_follow_their_shares(zipf):
    shares, number = key_shares(50, zipf), 200_000
    assert shares.sum() == pytest.approx(1) and (np.diff(shares) <= 1e-12).all()
    drawn = draw_keys((np.arange(number) + 0.5) / number, 50, zipf)  # each part of (0, 1) equally often
    np.testing.assert_allclose(np.bincount(drawn, minlength=50) / number, shares, atol=1e-5)


def test_clicks_follow_the_probabilities():
    found = planted(rate=0.1, signal=1.0).rows(0, 200_000)
    probability = found.probability
    assert probability.mean() == pytest.approx(0.1, abs=0.002)
    spread = np.sqrt((probability * (1 - probability)).sum())
    assert abs(found.clicked.sum() - probability.sum()) < 4 * spread
    for part in np.array_split(np.argsort(probability), 10):
        expected, mine = probability[part].sum(), probability[part]
        assert abs(found.clicked[part].sum() - expected) < 5 * np.sqrt((mine * (1 - mine)).sum())


def test_the_logit_has_the_spread_that_signal_says():
    probability = planted(signal=0.8).rows(0, 100_000).probability
    assert np.log(probability / (1 - probability)).std() == pytest.approx(0.8, rel=0.02)
    assert np.ptp(planted(signal=0.0).rows(0, 100).probability) == 0


def test_the_logit_is_a_sum_of_its_parts():
    """Row by row, from the tables of effects and vectors."""
    model = planted(pairs=3, rank=2)
    found = model.rows(10, 60)
    assert model.pairs == [(0, 1), (2, 3), (0, 1)]
    logit = np.log(found.probability / (1 - found.probability))
    parts = {name: np.zeros(50) for name in WEIGHTS}
    ends = np.cumsum(found.lengths)
    for row in range(50):
        mine = [keys[row] for keys in found.keys]
        parts["keys"][row] = sum(model._keys[j].effects[k] for j, k in enumerate(mine))
        parts["interactions"][row] = sum(
            model._keys[a].vectors[mine[a]] @ model._keys[b].vectors[mine[b]] for a, b in model.pairs
        )
        for values, frequency, phase in zip(found.numbers, model._frequency, model._phase, strict=True):
            parts["numbers"][row] += np.cos(frequency * np.log1p(values[row]) + phase)
        members = found.members[ends[row] - found.lengths[row] : ends[row]]
        parts["list"][row] = model._list.effects[members].mean() if len(members) else 0.0
    z = sum(model._scales[name] * values for name, values in parts.items()) - model._shift
    np.testing.assert_allclose(logit, model._bias + model.source.signal * z, atol=1e-5)


def test_keys_that_are_too_rare_have_little_effect():
    model = planted(categorical=[5000], rows=20_000, pairs=0)
    expected = 20_000 * key_shares(5000, 1.0)
    effects = model._keys[0].effects
    for part in np.array_split(np.arange(100, 5000), 4):
        learnable = (expected[part] / (expected[part] + RARE)).mean()
        assert np.square(effects[part]).mean() == pytest.approx(learnable, rel=0.2)


def test_parts_that_a_source_lacks_leave_their_share_to_the_others():
    probability = planted(categorical=[], list_keys=0).rows(0, 50_000).probability
    assert np.log(probability / (1 - probability)).std() == pytest.approx(1.4, rel=0.02)
    with pytest.raises(ValueError, match="no features; set categorical, numbers, list_keys, users or items"):
        planted(categorical=[], list_keys=0, numbers=0)


def test_the_best_auc_is_about_what_the_key_says():
    source = SyntheticClicksSourceConfig(kind="synthetic_clicks", rows=1_000_000)
    found = PlantedClicks(source).rows(0, 100_000)
    order = np.argsort(found.probability)
    ranks = np.empty(len(order))
    ranks[order] = np.arange(1, len(order) + 1)
    clicks = found.clicked.sum()
    auc = (ranks[found.clicked].sum() - clicks * (clicks + 1) / 2) / (clicks * (len(order) - clicks))
    assert auc == pytest.approx(0.8, abs=0.01)


def test_a_run_needs_no_more_than_the_source():
    """The click is its task, and what is known of its probability is not."""
    given = {
        "source": {"kind": "synthetic_clicks", "rows": 10, "categorical": [4, 5], "numbers": 1, "users": 3},
        "dataset": {"path": "d", "keep_negatives": 0.5},
        "model": {"kind": "ranking"},
        "train": {"num_steps": 1},
        "output": {"path": "o"},
    }
    config = RunConfig.model_validate(given)
    assert [task.label for task in config.model.tasks] == ["label"]
    assert config.model.inputs == ["user", "c1", "c2", "n1", "tags"]
    assert config.dataset.split.kind == "temporal"
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config

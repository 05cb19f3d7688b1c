"""What a host needs and sends, against numbers worked out by hand."""

import pytest

from configs.load import parse_config
from trainer.resources.forecast import BASE_BYTES, forecast_tables
from trainer.resources.hosts import forecast_host, host_facts, host_text


def config(directory, **sections):
    return parse_config(
        {
            "source": {"kind": "delimited", "paths": ["none.csv"]},
            "dataset": {
                "path": str(directory / "dataset"),
                "user_ids": {"kind": "hash", "rows": 200_000_000},
                "item_ids": {"kind": "hash", "rows": 50_000_000},
            },
            "model": {
                "kind": "two_tower",
                "user_tower": {"inputs": ["user"], "layers": [32]},
                "item_tower": {"inputs": ["item"], "layers": [32]},
            },
            "tables": {"user": {"dim": 64}, "item": {"dim": 64}},
            "train": {"num_steps": 5000, "batch_size": 8192},
            "output": {"path": str(directory / "run")},
            **sections,
        },
        "test",
    )


def test_memory_of_eight_hosts(tmp_path):
    made = config(tmp_path)
    found = forecast_host(made, forecast_tables(made, None), 8)
    # 250M records of 4 x 64 + 1 values of 4 bytes, on 8 hosts.
    assert found.table_bytes == 250_000_000 * 257 * 4 // 8
    assert found.peak_bytes == int(found.table_bytes * 1.05) + BASE_BYTES + (400 << 20)


@pytest.mark.parametrize("hosts", [2, 4])
def test_bytes_of_a_step(tmp_path, hosts):
    made = config(tmp_path)
    found = forecast_host(made, forecast_tables(made, None), hosts)
    share, others = 8192 // hosts, hosts - 1
    # Two ids a row. A host asks for ids and gives rows, and sends gradients, each of 64 values.
    rows = 2 * share * others // hosts * (8 + 2 * 4 * 64)
    vectors = 2 * 4 * 32 * share * others  # of its items, and gradients of the others'
    dense = 4 * 2 * (64 * 32 + 32)
    assert found.received_bytes == rows + vectors + others * dense
    batch = others * (2 * 8 * share + 16 * 8192)
    assert found.sent_bytes == rows + vectors + others * dense + batch


def test_groups_that_are_on_one_host_exchange_no_vectors(tmp_path):
    received = []
    for group in (4096, 8192):
        made = config(tmp_path)
        loss = made.model.loss.model_copy(update={"group": group})
        made = made.model_copy(update={"model": made.model.model_copy(update={"loss": loss})})
        received.append(forecast_host(made, forecast_tables(made, None), 2).received_bytes)
    assert received[1] - received[0] == 2 * 4 * 32 * 4096


def test_what_needs_no_exchange_of_vectors(tmp_path):
    with_labels = {"kind": "delimited", "paths": ["none.csv"], "roles": {"label": "rating"}}
    made = config(tmp_path, model={"kind": "dot_bias"}, source=with_labels)
    found = forecast_host(made, forecast_tables(made, None), 2)
    assert found.received_bytes == 2 * 4096 // 2 * (8 + 2 * 4 * 64)


def test_text(tmp_path):
    made = config(tmp_path)
    text = host_text(host_facts(forecast_host(made, forecast_tables(made, None), 2)))
    assert text.startswith("2: ") and "1.8 ms a step fixed" in text

"""Events, against loops."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.rows.events import best_of_each, events

ROWS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 2), st.sampled_from([0.0, 1.0, 2.0])),
    max_size=40,
)


@settings(deadline=None, max_examples=150)
@given(ROWS)
def test_events_and_their_best_rows(rows):
    rows = sorted(rows, key=lambda row: row[:2])  # by user, then time; ties stay
    users, times, items = (np.array([row[i] for row in rows], np.int64) for i in range(3))
    labels = np.array([row[3] for row in rows], np.float32)
    event = events(users, times, items)
    first = {}
    for place, row in enumerate(rows):
        first.setdefault(row[:3], place)
    assert event.tolist() == [first[row[:3]] for row in rows]
    best = {}
    for place, row in enumerate(rows):
        if row[:3] not in best or row[3] > rows[best[row[:3]]][3]:
            best[row[:3]] = place
    assert np.flatnonzero(best_of_each(event, labels)).tolist() == sorted(best.values())

"""Files of a checkpoint, read by several threads."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from trainer.checkpoints.files import RecordPiece, records_file, write_checkpoint
from trainer.checkpoints.manifest import CheckpointHead
from trainer.checkpoints.reader import open_checkpoint, read_array

FILES = 6


def test_one_thread_at_a_time_parses_a_header(tmp_path, monkeypatch):
    """CPython 3.11 may raise SystemError where two do, once in some ten thousand headers."""
    layout = {"rows": FILES, "parts": [["w", 2]], "pieces": [1] * FILES}
    head = {"step": 1, "kind": "full", "id": "a", "base": None, "identity": {}, "tables": {"user": layout}}
    pieces = (RecordPiece("user", i, None, np.full([1, 2], i, np.float32)) for i in range(FILES))
    path = f"{tmp_path}/a"
    write_checkpoint(path, CheckpointHead(**head), pieces, {"step": np.int64(1)}, 1)
    parse, parsing, together = np.lib.format.read_array_header_1_0, threading.Lock(), []

    def watched(file):
        alone = parsing.acquire(blocking=False)
        together.append(not alone)
        time.sleep(0.02)  # so that others would come
        if alone:
            parsing.release()
        return parse(file)

    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", watched)
    checkpoint = open_checkpoint(path)
    with ThreadPoolExecutor(FILES) as threads:
        found = threads.map(lambda i: read_array(checkpoint, records_file("user", i))[0, 0], range(FILES))
        assert list(found) == list(range(FILES))
    assert together == [False] * FILES

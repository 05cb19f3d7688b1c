"""Functions that the driver calls on hosts: answers, arrays and errors come back as what they are."""

import json

import numpy as np
import pytest
import tensorflow as tf

from configs.errors import CheckpointError, UserError
from trainer.checkpoints.files import DamagedCheckpoint
from trainer.cluster.services import Service, answered


def called(function, request: dict, *arrays, outputs=()) -> tuple:
    service = Service("test", function, outputs)
    service.register()
    answer, *found = tf.function(lambda: service.called(tf.constant(json.dumps(request)), *arrays))()
    return answered(answer, "10.0.0.2:7777"), found


def test_answers_and_arrays():
    def double(request, values):
        return {"seen": request["name"]}, 2 * values

    values = tf.constant([[1.0, 2.0]])
    answer, (found,) = called(double, {"name": "ü"}, values, outputs=[(tf.float32, 2)])
    assert answer == {"seen": "ü"}
    np.testing.assert_array_equal(found, [[2.0, 4.0]])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DamagedCheckpoint("file: missing"), DamagedCheckpoint),
        (CheckpointError("file: cannot be written"), CheckpointError),
        (UserError("no space"), UserError),
        (PermissionError(13, "Permission denied", "/x"), UserError),
        (KeyError("bug"), RuntimeError),
    ],
)
def test_errors_keep_their_kind_and_name_the_host(error, kind):
    def fail(request):
        raise error

    with pytest.raises(kind, match=r"on host 10\.0\.0\.2:7777") as found:
        called(fail, {}, outputs=[(tf.int64, 1)])
    assert type(found.value) is kind

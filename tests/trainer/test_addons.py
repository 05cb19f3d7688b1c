"""TF-Addons through its one door, each case in a fresh process."""

import subprocess
import sys

import pytest

from configs.errors import UserError
from tests.support.addons import needs_addons
from trainer import addons

PRELUDE = (
    "from configs.sections.devices import CpuDeviceConfig\nfrom trainer.runtime import start_tensorflow\n"
)


def run(code: str, **environment) -> subprocess.CompletedProcess:
    """Runs `code`, with only what Python needs in its environment."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", **environment},
        timeout=900,
    )


LAZY_ADAM = """
start_tensorflow(CpuDeviceConfig())
import sys, warnings
from trainer.addons import import_addons
addons = import_addons()
import tensorflow as tf
variable = tf.Variable(tf.ones([4, 2]))
optimizer = addons.optimizers.LazyAdam(0.1)
for _ in range(3):
    gradient = tf.IndexedSlices(tf.ones([2, 2]), tf.constant([1, 3]))
    optimizer.apply_gradients([(gradient, variable)])
print(variable.numpy().tolist())
print([name for name in sys.modules if name.startswith("keras.src.engine")])
print(import_addons() is addons)
warnings.warn("others are heard")
"""


@pytest.mark.slow
@needs_addons
def test_it_is_quiet_trains_and_leaves_no_trace():
    done = run(PRELUDE + LAZY_ADAM)
    assert done.returncode == 0, done.stderr
    rows, left, same = map(eval, done.stdout.splitlines())
    assert rows[0] == rows[2] == [1.0, 1.0]
    assert all(abs(value - 0.7) < 1e-5 for value in rows[1] + rows[3])
    assert left == [] and same
    # TF-Addons' own two notices are silenced, and only those.
    assert done.stderr.endswith(" UserWarning: others are heard\n") and done.stderr.count("\n") == 1


@needs_addons
def test_keras_3_is_refused_with_the_way_out():
    code = (
        "import tensorflow as tf, sys\n"
        "tf.keras.layers.Layer\n"
        "from configs.errors import UserError\n"
        "from trainer.addons import import_addons\n"
        "try:\n    import_addons()\nexcept UserError as error:\n    print(error)\n"
        "print([n for n in sys.modules if n.startswith(('tensorflow_addons', 'keras.src.engine'))])\n"
    )
    done = run(code, TF_CPP_MIN_LOG_LEVEL="3")
    assert done.returncode == 0, done.stderr
    message, left = done.stdout.splitlines()
    assert message == (
        "TF-Addons requires Keras 2, but this process loaded Keras 3: set TF_USE_LEGACY_KERAS=1 in the "
        "environment before Python starts, or use engine: rows"
    )
    assert left == "[]"


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("TF-Addons has no release for Python 3.13", "3.13: use Python 3.10 or 3.11, or engine: rows"),
        (None, "TF-Addons is not installed: pip install tensorflow-addons, or use engine: rows"),
    ],
)
def test_without_it_one_line_says_what_to_do(monkeypatch, reason, message):
    monkeypatch.delitem(sys.modules, "tensorflow_addons", raising=False)
    monkeypatch.setattr(addons, "missing_addons", lambda: reason)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        addons.import_addons()
    assert str(error.value).endswith(message)

"""The exported model asked from Java, with TensorFlow for Java: the same items, the same scores."""

import os
import pathlib
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from tests.support.jars import MissingToolError, class_path
from tests.support.tiny_run import tiny_export, tiny_model

PROGRAM = pathlib.Path(__file__).with_name("java") / "Ask.java"
USERS = ["ü1", "ü2", "ü23", "nobody"]


@pytest.fixture(scope="module")
def jars():
    try:
        return ":".join(class_path("tensorflow"))
    except MissingToolError as error:
        pytest.skip(str(error))


def ask(jars: str, model: str, k: int, users: list[str], *features: str) -> list[tuple[str, str, float]]:
    """(user, item, score) of each line that Ask.java prints."""
    command = ["java", "-Xmx1g", "-cp", jars, str(PROGRAM), model, str(k), ",".join(users), *features]
    environment = os.environ | {"JAVA_TOOL_OPTIONS": "-Dfile.encoding=UTF-8 -Dstdout.encoding=UTF-8"}
    environment |= {"LC_ALL": "C.UTF-8", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return [(user, item, float(score)) for user, item, score in rows]


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, features",
    [("plain", {}), ("robe", {}), ("towers", {"age": 61.5, "country": "c1"})],
    ids=["plain", "robe", "features"],
)
def test_java_gets_the_same_items_and_scores(jars, kind, features):
    model = tiny_export(kind)
    values = {name: tf.constant([value]) for name, value in features.items()}
    answer = tiny_model(kind).recommend(tf.constant(USERS), k=tf.constant(7), **values)
    expected = [(user, item.decode(), score) for user, items, scores in
                zip(USERS, answer["items"].numpy(), answer["scores"].numpy(), strict=True)
                for item, score in zip(items, scores, strict=True) if item]  # fmt: skip
    found = ask(jars, model, 7, USERS, *(f"{name}={value}" for name, value in features.items()))
    assert [row[:2] for row in found] == [row[:2] for row in expected] and len(found) == 7 * len(USERS)
    # The libraries are built for different processors, so sums may round differently.
    np.testing.assert_allclose([row[2] for row in found], [row[2] for row in expected], rtol=1e-5, atol=1e-6)

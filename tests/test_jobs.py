"""Jobs on a fake Cloud TPU, whose machines run the real start-up script and really train.

The fixture asserts after each test that no slice, node or machine is left.
"""

import numpy as np
import pytest

from tests.checkpoint_state import newest_state
from tests.job_runs import NUM_STEPS, Cloud, download, undisturbed


def same_weights(cloud: Cloud) -> None:
    """The run in the bucket ended as one that nobody disturbed."""
    theirs = newest_state(download(cloud, "run/"))
    ours = newest_state(undisturbed(cloud))
    assert int(ours["step"]) == NUM_STEPS and set(ours) == set(theirs)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


@pytest.mark.slow
def test_from_submit_to_success(cloud):
    output, log = cloud.lazytower("submit", "--config", cloud.config)
    path = output.strip()
    assert path.startswith("gs://bucket/run/jobs/planted-")
    cloud.lazytower("jobs", "wait", path)
    assert cloud.history(path) == [
        *("submitted", "requesting", "queued", "provisioning", "ready", "running", "stopping", "succeeded")
    ]

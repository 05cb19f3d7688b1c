"""Rules of bases, windows and warm starts that need the whole document."""

import pytest

from configs.errors import ConfigError
from configs.load import parse_config
from tests.support.tiny_run import planted_document

pytestmark = pytest.mark.any_python


@pytest.mark.parametrize("name", ["run", "run/"])
def test_a_run_does_not_start_from_itself(name):
    document = planted_document("/place") | {"init": {"from": f"/place/{name}"}}
    with pytest.raises(ConfigError, match="init.from: /place/run/? is the run's own output.path; name"):
        parse_config(document, "test")

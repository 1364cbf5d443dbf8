"""The tiny run that the tests of the commands train."""

import pytest

from tests.experiments.train_helpers import Tiny
from tests.helpers import ROOT


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return Tiny.write(tmp_path_factory.mktemp("tiny"), ROOT / ".pytest_cache" / "jax")  # as conftest's

"""The tiny run that the tests of the commands train."""

import pytest

from tests.experiments.train_helpers import Tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return Tiny.write(tmp_path_factory.mktemp("tiny"))

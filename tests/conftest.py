"""What all tests need to know: where real data lies, and that no hub is asked."""

import os

import pytest

from tests.real_data import DATA

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def data():
    """The folder of real data; skips, naming it, where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is missing; LLM_PRUNE_TEST_DATA names the folder of real data")
    return DATA

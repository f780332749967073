"""What all tests need to know: where real data lies, and modules beside the tests."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
HERE = Path(__file__).parent
DATA = Path(os.environ.get("LLM_PRUNE_TEST_DATA", HERE.parents[1] / "shared" / "data"))


@pytest.fixture(scope="session")
def data():
    """The folder of real data; skips, naming it, where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is missing; LLM_PRUNE_TEST_DATA names the folder of real data")
    return DATA

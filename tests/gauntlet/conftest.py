"""The seed of the kills is an option: `pytest tests/gauntlet --gauntlet-seed 7`."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--gauntlet-seed", type=int, default=0, help="draws the schedule of kills")


@pytest.fixture(scope="session")
def seed(request):
    return request.config.getoption("gauntlet_seed", default=0)

"""Two ranks of `llm-prune fit` under every ZeRO stage, killed with SIGKILL by a drawn schedule.

benchmarks/gauntlet.py writes down what came of it.
"""

from collections import Counter

import pytest

from tests.gauntlet.killing import CONFIGURATIONS, MOMENTS, gauntlet, schedule

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@pytest.mark.parametrize("drawn", range(20))
def test_every_schedule_has_twenty_kills_three_in_each_configuration_and_every_moment(drawn):
    kills = schedule(drawn)
    assert min(len(each) for each in kills.values()) >= 3
    moments = Counter(kill.moment for each in kills.values() for kill in each)
    assert sum(moments.values()) == 20
    assert set(moments) == set(MOMENTS)


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_a_run_killed_again_and_again_loses_repeats_and_changes_nothing(tmp_path, data, seed, configuration):
    outcome = gauntlet(tmp_path, data / "stories260K", configuration, seed)
    assert outcome["lost, repeated or reordered"] == [], outcome
    assert outcome["other rows or loss"] == [], outcome
    assert not outcome["other weights"], outcome

"""Two ranks of `llm-prune fit` under every ZeRO stage, killed with SIGKILL by a drawn schedule.

What the kills did is kept, so that the run folder's diary can be read afterwards: see benchmarks/gauntlet.py.
"""

from collections import Counter

import pytest

from tests.gauntlet.killing import CONFIGURATIONS, MOMENTS, carry_out, differing, schedule
from tests.processes import Run, recovery

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@pytest.mark.parametrize("drawn", range(20))
def test_every_schedule_has_twenty_kills_three_in_each_configuration_and_every_moment(drawn):
    kills = schedule(drawn)
    assert min(len(each) for each in kills.values()) >= 3
    moments = Counter(kill.moment for each in kills.values() for kill in each)
    assert sum(moments.values()) == 20
    assert set(moments) == set(MOMENTS)


@pytest.mark.parametrize("stage, lora", CONFIGURATIONS)
def test_a_run_killed_again_and_again_loses_repeats_and_changes_nothing(tmp_path, data, seed, stage, lora):
    config = recovery(tmp_path / "inputs", data / "stories260K", f"deepspeed_stage_{stage}", lora=lora)
    whole, run = Run(tmp_path / "whole", config), Run(tmp_path / "killed", config)
    whole.finish()
    hits = [carry_out(run, kill) for kill in schedule(seed)[stage, lora]]
    run.finish()
    for rank in range(2):
        assert run.counted(rank) == whole.counted(rank), hits
        assert differing(run, whole, rank) == [], hits
    weights = [each.run_dir / "recovered/model.safetensors" for each in (run, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()

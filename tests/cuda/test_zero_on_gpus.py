"""ZeRO over NCCL, bf16: the same laws as over gloo, on as many GPUs as there are (two at most)."""

import pytest
import torch

from tests.processes import Run, read, recovery

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU on this machine"),
]


@pytest.fixture
def make_run(tmp_path, data):
    def make(name, stage, lora):
        config = recovery(tmp_path / "inputs", data / "stories260K", f"deepspeed_stage_{stage}", lora=lora)
        run = Run(tmp_path / name, config)
        devices = min(2, torch.cuda.device_count())
        precision = "32-true" if lora else "bf16-mixed"
        run.set("trainer", accelerator="gpu", devices=devices, precision=precision)
        return run

    return make


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_killed_run_goes_on_where_it_was(make_run, stage, lora):
    whole, run = make_run("whole", stage, lora), make_run("killed", stage, lora)
    whole.finish()
    run.start()
    assert run.until(lambda: run.diaries() and len(read(run.diaries()[0])) > 8), run.said
    run.kill()
    run.finish()
    for rank in range(run.config["trainer"]["devices"]):
        expected, seen = whole.counted(rank), run.counted(rank)
        assert [(step, rows) for step, rows, _ in seen] == [(step, rows) for step, rows, _ in expected]
        # The kernels of the backward pass add up in no fixed order, so the last bits may differ.
        assert [float.fromhex(loss) for *_, loss in seen] == pytest.approx(
            [float.fromhex(loss) for *_, loss in expected], rel=2e-2
        )

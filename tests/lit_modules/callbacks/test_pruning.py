import pytest

from tests.processes import Run, recovery

pytestmark = pytest.mark.distributed


def test_what_keeps_rank_0_from_writing_ends_every_rank(tmp_path, data):
    run = Run(tmp_path / "run", recovery(tmp_path / "inputs", data / "stories260K", "ddp"))
    run.start()
    assert run.until((run.run_dir / "config.yaml").exists), run.said
    run.kill()
    (run.run_dir / "plan.json").unlink(missing_ok=True)
    (run.run_dir / "plan.json").mkdir()
    run.start()
    assert 0 not in run.wait()
    assert "pruning failed on rank 0: IsADirectoryError" in run.output.read_text()

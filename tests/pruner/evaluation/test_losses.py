import os

from pruner.evaluation.losses import loss_curves, smooth


def write(folder, text, at):
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(text)
    os.utime(folder / "metrics.csv", (at, at))


def test_a_resumed_run_has_one_curve_and_the_later_start_counts(tmp_path):
    write(tmp_path / "csv" / "version_0", "step,loss,val_loss\n1,3.0,\n2,2.5,\n2,,2.7\n3,9.0,\n", at=100)
    write(tmp_path / "csv" / "version_1", "loss,step\n2.2,3\n2.0,4\n", at=200)
    assert loss_curves(tmp_path) == {
        "loss": [(1, 3.0), (2, 2.5), (3, 2.2), (4, 2.0)],
        "val_loss": [(2, 2.7)],
    }


def test_what_is_no_number_is_left_out(tmp_path):
    write(tmp_path / "version_0", "step,loss\n1,nan\n2,inf\n3,1.5\n", at=100)
    assert loss_curves(tmp_path) == {"loss": [(3, 1.5)]}


def test_without_logs_there_is_no_curve(tmp_path):
    assert loss_curves(tmp_path / "logs") == {}


def test_a_level_stays_level_when_smoothed_and_noise_shrinks():
    level = [(float(step), 2.0) for step in range(50)]
    assert smooth(level) == level
    noisy = [(float(step), 2.0 + (-1) ** step) for step in range(50)]
    assert max(abs(value - 2) for _, value in smooth(noisy)) <= 0.5
    assert [step for step, _ in smooth(noisy)] == [step for step, _ in noisy]

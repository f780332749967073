"""Stands in for cli.py: a stage that takes a step every so often, saves, is told to stop, and marks DONE.

Every rank keeps the step count of rank 0; a flag of any rank is agreed on by a file, at a step's end.
`--fake.*` options say what goes wrong.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

options = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[2:] if "=" in word)
command, run = sys.argv[1], Path(options.get("run_dir") or Path(options["model"]).parent)
steps, every = int(options.get("fake.steps", 40)), int(options.get("fake.every", 10))
pace = float(options.get("fake.pace", 0.1))
rank = int(os.environ["SLURM_PROCID"])
flags: list[int] = []


def newest() -> int:
    return max((int(path.name[5:]) for path in (run / "checkpoints").glob("step-????????")), default=0)


def save(step: int) -> None:
    side = run / "checkpoints" / f"step-{step:08d}.tmp"
    side.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(side.with_suffix(""), ignore_errors=True)
    side.rename(side.with_suffix(""))


def mark(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "side").write_text("{}")
    os.replace(folder / "side", folder / "DONE")


def say(line: str) -> None:
    with (run / "trace").open("a") as stream:
        stream.write(line + "\n")


def train() -> None:
    agreed = run / f"agreed-{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_RESTART_COUNT', 0)}"
    step = newest()
    time.sleep(float(options.get("fake.start", 0)))
    signal.signal(signal.SIGUSR1, lambda *_: flags.append(1))
    signal.signal(signal.SIGTERM, lambda *_: flags.append(1))
    if options.get("fake.deaf"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    while step < steps and not (run / "recovered" / "DONE").exists():
        time.sleep(pace)
        step += 1
        if rank == 0:
            say(str(step))
        if step == int(options.get("fake.poison", -1)):
            sys.exit("loss is not finite")
        if flags:
            agreed.touch()
        if rank == 0 and (agreed.exists() or step % every == 0):
            save(step)
        if agreed.exists():
            time.sleep(2 * pace if rank else 0)
            sys.exit(85)
    if rank == 0:
        mark(run / "recovered")


run.mkdir(parents=True, exist_ok=True)
if command == "prune":
    time.sleep(float(options.get("fake.prune", 0)))
    say("pruned")
    mark(run / "pruned")
elif command == "fit":
    if not (run / "recovered" / "DONE").exists():
        train()
    if rank == 0 and not (run / "DONE").exists():
        say("measured")
        mark(run)
elif command == "export":
    Path(options["output"]).mkdir(parents=True)
    say(f"exported {options['format']}")

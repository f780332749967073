"""Stands in for cli.py: a stage that takes a step every so often, saves, is told to stop, and marks DONE.

Ranks meet at every step's end, the higher ones later, and agree there on a signal that reached any of them.
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
pace = float(options.get("fake.pace", 0.04))
rank, size = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
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


def together(step: int) -> bool:
    """Meet all ranks at a step's end, as an all-reduce does; whether any of them was signalled."""
    meeting = run / f"meeting-{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_RESTART_COUNT', 0)}-{step}"
    meeting.mkdir(exist_ok=True)
    (meeting / f"{rank}.tmp").write_text("flag" if flags else "")
    (meeting / f"{rank}.tmp").rename(meeting / str(rank))
    while len(there := [path for path in meeting.iterdir() if path.suffix != ".tmp"]) < size:
        time.sleep(0.01)
    return any(path.read_text() for path in there)


def train() -> None:
    step = newest()
    time.sleep(float(options.get("fake.start", 0)))
    handler = signal.SIG_IGN if options.get("fake.deaf") else lambda *_: flags.append(1)
    signal.signal(signal.SIGUSR1, handler)
    signal.signal(signal.SIGTERM, handler)
    while step < steps:
        time.sleep(pace * (1 + 2 * rank))
        step += 1
        stopping = together(step)
        if rank == 0:
            say(str(step))
        if step == int(options.get("fake.poison", -1)):
            sys.exit("loss is not finite")
        if rank == 0 and (stopping or step % every == 0):
            save(step)
        if stopping:
            time.sleep(0.2 * rank)
            sys.exit(85)
    if rank == 0:
        mark(run / "recovered")


run.mkdir(parents=True, exist_ok=True)
if command == "prune":
    time.sleep(float(options.get("fake.prune", 0)))
    say("pruned")
    mark(run / "pruned")
elif command == "recover":
    train()
elif command == "fit":
    if rank == 0 and not (run / "DONE").exists():
        say("measured")
        mark(run)
elif command == "export":
    Path(options["output"]).mkdir(parents=True)
    say(f"exported {options['format']}")

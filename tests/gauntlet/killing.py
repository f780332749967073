"""A schedule of kills drawn from a seed, and the carrying out of it on real runs."""

import random
import time
from dataclasses import asdict, dataclass

from lit_modules.callbacks.checkpoint_folder import SIDE, newest_first
from tests.processes import Run, read, recovery

CONFIGURATIONS = [(stage, lora) for stage in (1, 2, 3) for lora in (True, False)]
EARLY = "before the first checkpoint"
MOMENTS = (EARLY, "at a random step", "during a save", "during evaluation", "at an epoch's end")


@dataclass(frozen=True)
class Kill:
    """When to kill: after `count` batches, or files of the save, and so many seconds more."""

    moment: str
    count: int
    delay: float


def schedule(seed, num_kills=20):
    """Configuration -> its kills in order, at least three each, every moment in turn."""
    draw = random.Random(seed)
    moments = [MOMENTS[number % len(MOMENTS)] for number in range(num_kills)]
    kills = {configuration: [] for configuration in CONFIGURATIONS}
    for number, moment in enumerate(moments):
        count = draw.randint(1, 3) if moment == EARLY else draw.randint(0, 5)
        kill = Kill(moment, count, draw.uniform(0.0, 0.02))
        kills[CONFIGURATIONS[number % len(CONFIGURATIONS)]].append(kill)
    for each in kills.values():
        draw.shuffle(each)
        each.sort(key=lambda kill: kill.moment != EARLY)
    return kills


def gauntlet(folder, model, configuration, seed):
    """One configuration: a run that is left alone, and one that is killed; what came of it."""
    stage, lora = configuration
    config = recovery(folder / "inputs", model, f"deepspeed_stage_{stage}", lora=lora)
    whole, run = Run(folder / "whole", config), Run(folder / "killed", config)
    whole.finish()
    hits = [carry_out(run, kill) for kill in schedule(seed)[configuration]]
    run.finish()
    weights = [(each.run_dir / "recovered/model.safetensors").read_bytes() for each in (run, whole)]
    return {
        "stage": stage,
        "trained": "LoRA" if lora else "all weights",
        "kills": hits,
        "batches of the run left alone": sum(len(whole.counted(rank)) for rank in range(2)),
        "batches trained with the kills": sum(len(list(all_batches(run, rank))) for rank in range(2)),
        "lost, repeated or reordered": [rank for rank in range(2) if rows(run, rank) != rows(whole, rank)],
        "other rows or loss": [place for rank in range(2) for place in differing(run, whole, rank)],
        "other weights": weights[0] != weights[1],
    }


def rows(run, rank):
    """The samples that counted, in order."""
    return [(step, ids) for step, ids, _ in run.counted(rank)]


def carry_out(run, kill):
    """Start the run, kill it at its moment; what was found: the moment, its place, and what lay on disk."""
    before = set(run.diaries())
    run.start()
    reached = run.until(lambda: has_come(run, kill, before))
    if kill.moment != "during a save":
        time.sleep(kill.delay)
    run.kill()
    assert reached, f"the run ended before the kill {kill}:\n{run.said}"
    events = written(run, before)
    return {
        **asdict(kill),
        "batches": sum(event["event"] == "batch" for event in events),
        "last event": events[-1]["event"] if events else "none",
        "half-written": [folder.name for folder in run.checkpoints.glob(f"*{SIDE}")],
        "complete": [folder.name for folder in newest_first(run.checkpoints)],
    }


def has_come(run, kill, before):
    """Whether the moment is there, by what this start has written so far."""
    if kill.moment == "during a save":
        return any(len(list(folder.iterdir())) >= kill.count for folder in saving(run))
    events = [event["event"] for event in written(run, before)]
    if kill.moment == "during evaluation":
        return "validation" in events
    if kill.moment == "at an epoch's end":
        return "epoch end" in events
    return events.count("batch") >= max(1, kill.count)


def saving(run):
    """The folders of a save under way; one that is renamed meanwhile is none."""
    return [folder for folder in run.checkpoints.glob(f"*{SIDE}") if folder.is_dir()]


def written(run, before):
    """What rank 0 has written since `before`."""
    fresh = [file for file in run.diaries() if file not in before]
    return read(fresh[0]) if fresh else []


def all_batches(run, rank):
    """Every batch of every start, replayed ones too: ((step, number in the step), rows, loss)."""
    for file in run.diaries(rank):
        seen = {}
        for entry in read(file):
            if entry["event"] == "batch":
                number = seen.setdefault(entry["step"], 0)
                seen[entry["step"]] += 1
                yield (entry["step"], number), entry["rows"], entry["loss"]


def differing(run, whole, rank):
    """Batches of any start of `run` that `whole`, which was never killed, trained otherwise."""
    expected = {place: (rows, loss) for place, rows, loss in all_batches(whole, rank)}
    return [place for place, rows, loss in all_batches(run, rank) if expected.get(place) != (rows, loss)]

"""`python CODE/slurm begin|preflight|end …`: what a job script asks of its own snapshot of this package."""

import logging
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from slurm import job, preflight, sweeps

COMMANDS = {"begin": job.begin, "end": job.end, "preflight": preflight.main, "summarise": sweeps.summarise}

if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        sys.exit(COMMANDS[sys.argv[1]](sys.argv[2:]))
    except (ValueError, OSError) as error:
        sys.exit(f"llm-prune under SLURM: {error}")

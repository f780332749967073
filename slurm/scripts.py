"""The job scripts: the templates of this folder with the options of one run."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

FOLDER = Path(__file__).parent
DIRECTIVE = "#SBATCH "


def render(stage: str, options: Iterable[str], exports: Mapping[str, str]) -> str:
    """A template, its own options replaced by `options` and followed by `exports`.

    The options that make a job survive (`--requeue`, `--open-mode=append`) stay as the template has them.
    """
    lines = (FOLDER / f"{stage}.sbatch").read_text().splitlines()
    directives = [number for number, line in enumerate(lines) if line.startswith(DIRECTIVE)]
    kept = [line for line in lines if line.startswith(f"{DIRECTIVE}--requeue")]
    assert kept, f"{stage}.sbatch must say --requeue"
    own = [*(DIRECTIVE + shlex.quote(option) for option in options), *kept]
    own += [f"export {name}={shlex.quote(value)}" for name, value in exports.items()]
    return "\n".join([*lines[: directives[0]], *own, *lines[directives[-1] + 1 :]]) + "\n"

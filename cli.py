"""`llm-prune`: finds the command that was asked for and imports only what that one needs."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

COMMANDS = {
    "fit": "prune, recover, evaluate and report: the whole path, resumed where it stopped",
    "prune": "stop after pruned/ and plan.json",
    "recover": "stop after recovered/",
    "validate": "loss of a run's newest model on its held-out records",
    "evaluate": "perplexity, tasks and cost of any model folders, in one table",
    "export": "write a model folder, a run or a checkpoint in another format",
    "push": "upload a model folder to a hub",
    "generate": "continue a prompt with any model folder",
    "compare": "a local page: several models continue the same prompt side by side",
    "plan": "show a pruning plan, compare two, or preview a budget without touching weights",
    "resources": "memory, steps and hours of a run; refuses one that does not fit",
    "submit": "run the whole path on a SLURM cluster, as a chain of jobs",
    "status": "how far a submitted run is",
    "cancel": "end a submitted run's jobs",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a mistake of the user's ends in one message and exit status 2."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print_usage()
        return 0
    if args[0] not in COMMANDS:
        print(f"llm-prune: no command {args[0]!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    quieten()
    command: Callable[[list[str]], int] = globals()[args[0]]
    try:
        return command(args[1:])
    except (ValueError, OSError) as error:
        if os.environ.get("LLM_PRUNE_TRACEBACK"):
            raise
        print(f"llm-prune {args[0]}: {error}", file=sys.stderr)
        return 2


def quieten() -> None:
    """Show our own lines and other people's warnings, nothing else."""
    handler = logging.StreamHandler()
    for room in ("pruner", "lit_modules", "slurm"):
        logging.getLogger(room).setLevel(logging.INFO)
        logging.getLogger(room).addHandler(handler)
    warnings.simplefilter("ignore", FutureWarning)
    for chatter in (
        ".*srun.* command is available",
        ".*LeafSpec",
        ".*weights_only.* was not set",
        ".*your dataloader is not resumable",  # the data module knows its position
    ):
        warnings.filterwarnings("ignore", message=chatter)
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DS_ACCELERATOR_LOG_LEVEL", "error")


def print_usage() -> None:
    """Print the commands, a line each."""
    print("usage: llm-prune COMMAND [--help] [options]\n")
    for name, purpose in COMMANDS.items():
        print(f"  {name:<10} {purpose}")
    print("\nFirst run: llm-prune fit --config configs/demo.yaml")


def fit(args: list[str]) -> int:
    """Prune, recover, evaluate and report into one run folder."""
    from lit_modules.command import RunCommand

    return RunCommand(args, "fit").fit()


def prune(args: list[str]) -> int:
    """Prune alone: the same configuration as `fit`, no trainer."""
    from lit_modules.command import RunCommand

    return RunCommand(args, "prune").prune()


def recover(args: list[str]) -> int:
    """Prune and recover, measure nothing."""
    from lit_modules.command import RunCommand

    return RunCommand(args, "recover").recover()


def validate(args: list[str]) -> int:
    """Validation loss of what the run has made so far."""
    from lit_modules.command import RunCommand

    return RunCommand(args, "validate").validate()


def evaluate(args: list[str]) -> int:
    """Measure model folders."""
    from pruner.evaluation.models import Evaluation

    def run(models: dict[str, str], output: str, evaluation: Evaluation = Evaluation()) -> None:
        """Measure models and write metrics.json and report.html.

        Args:
            models: label -> model folder, e.g. '{"dense": "models/x", "pruned": "runs/x/pruned"}'.
            output: folder that takes metrics.json and report.html.
            evaluation: what to measure.
        """
        import rich

        from lit_modules.progress import bar
        from pruner.evaluation.models import evaluate_models
        from pruner.evaluation.summary import terminal_table

        rich.print(terminal_table(evaluate_models(models, evaluation, output, track=bar)))

    return call(run, args, "evaluate")


def export(args: list[str]) -> int:
    """Write a model in another format."""

    from lit_modules.exporting import export as export_to

    return call(export_to, args, "export")


def push(args: list[str]) -> int:
    """Upload a model folder to a hub."""

    def run(model: str, repo_id: str, private: bool = False) -> None:
        """Upload a model folder or an adapter, with its card, to the hub that you are logged in to.

        Args:
            model: what `export` or a run wrote.
            repo_id: OWNER/NAME; made if it is not there.
            private: make it so that only its owner sees it.
        """
        from pruner.export import push as push_to

        print(push_to(model, repo_id, private=private))

    return call(run, args, "push", positional=True)


def generate(args: list[str]) -> int:
    """Continue a prompt."""

    def run(
        model: str, prompt: str, max_new_tokens: int = 64, temperature: float = 0.0, seed: int = 0
    ) -> None:
        """Continue a prompt with any model folder.

        Args:
            model: model folder.
            prompt: the text to continue.
            max_new_tokens: how many tokens to add at most.
            temperature: 0 for greedy.
            seed: of the sampling.
        """
        from pruner.evaluation.generate import generate_text

        print(generate_text(model, prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed))

    return call(run, args, "generate")


def compare(args: list[str]) -> int:
    """Serve a page on which models continue the same prompt side by side, with speed and memory."""
    from argparse import ArgumentParser

    from lit_modules.compare_command import compare as serve

    parser = ArgumentParser(prog="llm-prune compare", description=compare.__doc__, allow_abbrev=False)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a model or run folder, or LABEL=MODEL")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--device", default="auto", help="of all models; auto takes the GPU if there is one")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code beside the weights")
    options = vars(parser.parse_args(args))
    serve(options.pop("models"), **options)
    return 0


def plan(args: list[str]) -> int:
    """Look at pruning plans: show, diff, preview."""
    from lit_modules.plans import diff, preview, show

    return call([show, diff, preview], args, "plan", positional=True)


def resources(args: list[str]) -> int:
    """Estimate what a run will need: the same configuration as `fit`, nothing is built."""
    from lit_modules.resources_command import ResourcesCommand

    return ResourcesCommand(args, "resources").estimate()


def submit(args: list[str]) -> int:
    """Submit a run's stages to SLURM; the words are those of `fit`, and --sweep KEY=A,B and --dry-run."""
    from argparse import ArgumentParser

    from slurm.submission import submit as submit_run

    parser = ArgumentParser(prog="llm-prune submit", description=submit.__doc__, allow_abbrev=False)
    parser.add_argument("--sweep", action="append", default=[], help="KEY=A,B,C: a run for each value")
    parser.add_argument("--dry-run", action="store_true", help="print the scripts and let sbatch check them")
    options, words = parser.parse_known_args(args)
    for job in submit_run(words, options.sweep, dry_run=options.dry_run):
        print(job)
    return 0


def status(args: list[str]) -> int:
    """Print how far a run is."""

    def run(run_dir: str) -> None:
        """Print a submitted run's stage, step, time left, restarts and logs.

        Args:
            run_dir: the run folder.
        """
        from pathlib import Path

        from slurm.monitor import status as status_of

        print(status_of(Path(run_dir)))

    return call(run, args, "status", positional=True)


def cancel(args: list[str]) -> int:
    """End a run's jobs."""

    def run(run_dir: str) -> None:
        """End the SLURM jobs of a run; what it has made stays.

        Args:
            run_dir: the run folder.
        """
        from pathlib import Path

        from slurm.monitor import cancel as cancel_run

        print("\n".join(cancel_run(Path(run_dir))))

    return call(run, args, "cancel", positional=True)


def call(function: Any, args: list[str], name: str, *, positional: bool = False) -> int:
    """Parse `args` by the signature of a function, or of the one of several that they name, and call it."""
    from jsonargparse import auto_cli

    auto_cli(function, args=args, prog=f"llm-prune {name}", as_positional=positional)
    return 0


if __name__ == "__main__":
    sys.exit(main())

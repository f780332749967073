"""`llm-prune export`: a model folder, a run or a checkpoint of one, in another format."""

from pathlib import Path
from typing import Any

from lit_modules.model_card import write_card
from lit_modules.run_models import is_checkpoint, newest_made, read_checkpoint, run_of
from pruner.checkpoint import load_model, load_tokenizer
from pruner.export import FORMATS, beside, export_model, has_room, verify_export, write_export
from pruner.export import check as check_export
from pruner.run_folder import RunFolder, done_record

ADAPTER = "adapter"


def export(
    model: str,
    output: str,
    format: str = "hf",
    verify: bool = True,
    max_shard_size: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Write a model in another format and load it back to compare.

    Args:
        model: a model folder; a run folder, for the newest model it has made; or a checkpoint of a run.
        output: the folder or file to write; must not exist.
        format: hf (a folder for transformers), padded (dense shapes, zeros where something went), gguf,
            gguf-f16, gguf- and a type of llama.cpp's own quantisation, such as gguf-q4_k_m, or adapter (what
            LoRA trained, for PEFT).
        verify: load the result in a fresh process and compare logits and greedy text, where memory suffices.
        max_shard_size: of each file of weights in a folder, such as 5GB.
        trust_remote_code: run model code that lies beside the weights.
    """
    place = Path(output)
    check_export(place, format, max_shard_size, (*FORMATS, ADAPTER))
    made = newest_made(model)
    sizes: dict[str, Any] = {"verify": verify, "max_shard_size": max_shard_size}
    if format == ADAPTER:
        export_adapter(model, made, place, verify=verify, trust=trust_remote_code)
    elif made is None or not is_checkpoint(made):
        export_model(made or model, place, format, trust=trust_remote_code, **sizes)
    else:
        checkpoint = read_checkpoint(made, trust=trust_remote_code)
        tokenizer = load_tokenizer(checkpoint.pruned, trust_remote_code=trust_remote_code)
        write_export(checkpoint.merged(), tokenizer, place, format, **sizes)
    run = run_of(made or Path(model))
    if run is not None and place.is_dir():
        write_card(run, place)


def export_adapter(model: str, made: Path | None, output: Path, *, verify: bool, trust: bool) -> None:
    """Write the PEFT adapter of a run or checkpoint, to be put on the run's `pruned/`.

    Raises:
        ValueError: `model` is neither, or its recovery had no adapters.
    """
    if made is None:
        raise ValueError(
            f"{model} is neither a run nor a checkpoint of one, and only these have an adapter; give the run "
            "folder, or export as hf"
        )
    if is_checkpoint(made):
        adapted = read_checkpoint(made, trust=trust).adapted()
    else:
        adapted = read_adapter(RunFolder(made.parent), trust=trust)
    with beside(output) as written:
        adapted.save_pretrained(written)
        if verify and has_room(adapted):
            verify_export(adapted, written)


def read_adapter(run: RunFolder, *, trust: bool) -> Any:
    """A PeftModel of a finished run's pruned model and adapter; `trust` its model code.

    Raises:
        ValueError: there is no adapter, as the recovery was full or has not begun.
    """
    if done_record(run.adapter) is None:
        trained = done_record(run.recovered) is not None
        why = "its recovery trained all weights" if trained else "its recovery has made no checkpoint yet"
        raise ValueError(f"{run.root} has no adapter, as {why}; export as hf")
    from peft import PeftModel

    pruned = load_model(run.pruned.resolve(), trust_remote_code=trust)
    return PeftModel.from_pretrained(pruned, str(run.adapter)).eval()

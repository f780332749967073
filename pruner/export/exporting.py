"""export_model(): read a model folder, write it in another format, compare the two."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.checkpoint import load_model, load_tokenizer, save_model
from pruner.export.padding import padded
from pruner.export.verification import verify_export

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMATS: Mapping[str, Callable[["PreTrainedModel"], "PreTrainedModel"]] = {
    "hf": lambda model: model,
    "padded": padded,
}
"""Format -> the model as that format holds it."""


def export_model(
    model: str | Path, output: str | Path, format: str = "hf", *, verify: bool = True, trust: bool = False
) -> None:
    """Write the model in a folder (or any other place models are loaded from) to another folder.

    Args:
        model: what to read; as for `pruner.checkpoint.load_model`.
        output: the folder to write; must not exist.
        format: "hf", for transformers: a stock class where one describes it, else with its code beside it;
            "padded", the dense shapes with zeros where something went, for runtimes that know no other.
        verify: load the result in a fresh process and compare logits and greedy text.
        trust: run model code that lies beside the weights.

    Raises:
        ValueError: there is no such model or format, `output` exists, the format cannot hold the model, or
            what was written is not the same model.
    """
    output = Path(output)
    if format not in FORMATS:
        raise ValueError(f"no format {format!r}; there are {', '.join(FORMATS)}")
    if output.exists():
        raise ValueError(f"{output} exists; choose a new folder")
    loaded = load_model(model, trust_remote_code=trust)
    tokenizer = load_tokenizer(model, trust_remote_code=trust)
    exported = FORMATS[format](loaded)
    save_model(exported, tokenizer, output)
    if verify:
        verify_export(exported, output)

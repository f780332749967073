"""Several models that continue the same prompt in turn, with what they take and how fast they are."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lit_modules.run_models import newest_made
from lit_modules.templates import Example, load_template
from pruner.checkpoint import load_model, load_tokenizer
from pruner.evaluation.cost import Size, measure_size
from pruner.evaluation.streaming import Spoken, stream
from pruner.run_folder import RunFolder, done_record

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PLAIN, INSTRUCTION = "text to continue", "instruction to answer"


@dataclass(frozen=True, slots=True)
class Compared:
    """One column of the page."""

    label: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    size: Size


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of every model.

    Attributes:
        prompt: as typed.
        mode: `PLAIN`, or `INSTRUCTION` to put Alpaca's words around it.
        max_new_tokens: where a text ends that has not ended itself.
        temperature: 0 for greedy.
        seed: of the sampling, the same for all.
    """

    prompt: str
    mode: str = PLAIN
    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0


def labelled(places: Sequence[str]) -> dict[str, str]:
    """Label -> model; a run folder stands for its dense model and what it has made of that.

    Raises:
        ValueError: two models would have one label, or a run has made nothing yet.
    """
    models: dict[str, str] = {}
    for given in places:
        label, is_named, place = given.rpartition("=")
        own = {label: place} if is_named else of_run(Path(place)) or {Path(place).name: place}
        for name, model in own.items():
            if name in models:
                raise ValueError(f"two models are called {name!r}; name one of them, as in other={model}")
            models[name] = model
    return models


def of_run(folder: Path) -> dict[str, str]:
    """What a run folder is about: dense, pruned, recovered; empty for what is no run folder."""
    if newest_made(folder) is None:
        return {}
    run = RunFolder(folder)
    config = yaml.safe_load(run.config.read_text())
    made = {"pruned": run.pruned, "recovered": run.recovered}
    ready = {label: str(place) for label, place in made.items() if done_record(place) is not None}
    return {"dense": str(config["model"]["model_name_or_path"]), **ready}


def check_port(host: str, port: int) -> None:
    """Raise ValueError if nothing can be served there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {port} of {host} is in use; give another with --port") from error
        raise ValueError(f"cannot serve at {host}, port {port}: {error.strerror or error}") from error


def opened(label: str, place: str, device: str, trust: bool) -> Compared:
    """Load a model and take its measure."""
    model = load_model(place, trust_remote_code=trust)
    size = measure_size(model)
    return Compared(label, model.to(device), load_tokenizer(place, trust_remote_code=trust), size)


def answers(compared: Compared, request: Request) -> Iterator[Spoken]:
    """Yield what one model writes, as it writes."""
    prompt, special = request.prompt, True
    if request.mode == INSTRUCTION:
        template = load_template("alpaca", compared.tokenizer)
        prompt, _ = template(Example(request.prompt, "", ""))
        special = template.adds_special_tokens
    yield from stream(
        compared.model,
        compared.tokenizer,
        prompt,
        request.max_new_tokens,
        temperature=request.temperature,
        seed=request.seed,
        add_special_tokens=special,
    )


def in_turn(models: Sequence[Compared], request: Request) -> Iterator[dict[str, Spoken]]:
    """Yield label -> what was written so far; one model after the other, so that speeds compare."""
    written: dict[str, Spoken] = {}
    for compared in models:
        for spoken in answers(compared, request):
            written = {**written, compared.label: spoken}
            yield written


def kept_line(size: Size, dense: Size) -> str:
    """What a model takes, in a line, beside the first of the page."""
    share = "" if size is dense else f" (× {size.parameters / dense.parameters:.2f})"
    return (
        f"{size.parameters / 1e6:,.0f} M parameters{share} · weights {size.weight_bytes / 1e9:.2f} GB · "
        f"cache {size.cache_bytes_per_token / 1e3:.1f} kB per token"
    )


def speed_line(label: str, written: Mapping[str, Spoken], first: str) -> str:
    """How fast a model wrote, in a line, beside the first of the page."""
    if label not in written:
        return ""
    own, reference = written[label].tokens_per_second, written[first].tokens_per_second
    if own is None:
        return f"first token after {written[label].first_seconds:.2f} s"
    factor = f" (× {own / reference:.2f})" if reference and label != first else ""
    return f"{own:.1f} tokens/s{factor} · {written[label].num_tokens} tokens"

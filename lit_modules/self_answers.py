"""Recovery data out of nothing but prompts: the dense model answers them, and its answers are kept."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lit_modules.templates import example_of, load_template
from pruner.checkpoint import load_model, load_tokenizer
from pruner.progress import Track, silent
from pruner.records import Record, read_records
from pruner.run_folder import content_identity, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)  # without slots: jsonargparse reads vars() of a default
class SelfAnswers:
    """How the dense model answers prompts.

    Attributes:
        prompts: file of records with `instruction` and optionally `input`; an answer there is not read.
        max_new_tokens: where an answer without EOS is cut.
        temperature: 0 for greedy, else of the sampling.
        seed: of the sampling.
        batch_size: prompts answered at once.
        template: how prompts are put to the dense model; as in data.template, `chat` suits
            instruction-tuned models.
    """

    prompts: str | None = None
    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    batch_size: int = 16
    template: str = "chat"

    def check(self) -> None:
        """Raise ValueError if the prompts are not there."""
        if self.prompts is None:
            raise ValueError(
                "data.path: self needs data.answers.prompts: a file of records with `instruction`"
            )
        read_records(self.prompts)

    def digest(self, model_name_or_path: str) -> str:
        """Hash of all that the answers depend on."""
        self.check()
        settings = {**asdict(self), "prompts": content_identity(str(self.prompts))}
        described = json.dumps([content_identity(model_name_or_path), settings], sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()[:16]


def answered_prompts(
    settings: SelfAnswers,
    model_name_or_path: str,
    cache_dir: Path,
    *,
    trust_remote_code: bool = False,
    track: Track = silent,
) -> Iterator[Record]:
    """Yield the prompts with the dense model's answers, asking only for those not yet kept.

    Batches are appended to a file as they are answered, so that a stopped run continues.

    Raises:
        ValueError: there are no prompts, or the file lacks its fields.
    """
    kept = cache_dir / f"answers-{settings.digest(model_name_or_path)}.jsonl"
    prompts = list(read_records(str(settings.prompts)))
    if not prompts:
        raise ValueError(f"{settings.prompts} holds no prompts")
    done = _complete_lines(kept)
    if len(done) < len(prompts):
        model = load_model(model_name_or_path, trust_remote_code=trust_remote_code)
        tokenizer = load_tokenizer(model_name_or_path, trust_remote_code=trust_remote_code)
        starts = range(len(done), len(prompts), settings.batch_size)
        for start in track(starts, "the dense model answers", len(starts)):
            batch = prompts[start : start + settings.batch_size]
            _append(kept, _answer(model, tokenizer, batch, settings, start))
    rows = [(json.loads(line), f"{kept}:{number}") for number, line in enumerate(_complete_lines(kept), 1)]
    return iter([(row, place) for row, place in rows if row["output"].strip()])


@torch.no_grad()
def _answer(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    batch: list[Record],
    settings: SelfAnswers,
    start: int,
) -> list[dict[str, Any]]:
    """Generate one batch, left-padded; sampling is seeded by its place, so pieces give the same whole."""
    template = load_template(settings.template, tokenizer)
    examples = [example_of(record, place, with_response=False) for record, place in batch]
    tokenizer.padding_side = "left"
    inputs = tokenizer(
        [template(example)[0] for example in examples],
        add_special_tokens=template.adds_special_tokens,
        return_tensors="pt",
        padding=True,
    ).to(model.device)
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if settings.temperature > 0:
        sampling = {"do_sample": True, "temperature": settings.temperature}
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed + start)
        output = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=settings.max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            **sampling,
        )
    texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [
        {"instruction": example.instruction, "input": example.input, "output": text.strip()}
        for example, text in zip(examples, texts, strict=True)
    ]


def _complete_lines(file: Path) -> list[str]:
    """The lines that were written whole; a torn last one is left out."""
    if not file.exists():
        return []
    return [
        line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]


def _append(file: Path, rows: list[dict[str, Any]]) -> None:
    """Rewrite the complete lines and `rows` to the side, then rename."""
    lines = [*_complete_lines(file), *(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)]
    write_text(file, "".join(lines))

"""Instruction records for recovery: tokenised once, split by hash, sampled from a saved position."""

import hashlib
import logging
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from lit_modules.collation import PaddedBatch
from lit_modules.encoding import Encoder
from lit_modules.progress import bar
from lit_modules.sampling import Loader, Order, Pick, Share, held_out_picks, training_picks
from lit_modules.self_answers import SelfAnswers, answered_prompts
from lit_modules.templates import load_template
from lit_modules.token_cache import Examples, open_examples, write_examples
from pruner.checkpoint import load_tokenizer
from pruner.records import Record, read_records
from pruner.run_folder import differences

UNASKED = SelfAnswers()

log = logging.getLogger(__name__)


class InstructionData(LightningDataModule):
    """Alpaca-like records, tokenised into a cache that all processes of a node share."""

    def __init__(
        self,
        path: str,
        model_name_or_path: str,
        template: str = "alpaca",
        max_length: int = 256,
        batch_size: int = 4,
        validation_share: float = 0.02,
        num_workers: int = 1,
        seed: int = 0,
        split: str = "train",
        answers: SelfAnswers = UNASKED,
        cache_dir: str = "~/.cache/llm-prune",
        trust_remote_code: bool = False,
    ) -> None:
        """Check what can be checked without reading anything.

        Args:
            path: JSON, JSONL or Parquet file, hub name, or `self`: the dense model's own answers.
            model_name_or_path: the dense model, for its tokenizer and, with `self`, its answers.
            template: alpaca, chat (the tokenizer's own), a file, or a text with {instruction}, {input}
                and {response}.
            max_length: tokens per example; longer responses are cut, longer prompts left out.
            batch_size: examples per forward pass and process.
            validation_share: share of the examples held out, chosen by a hash of their text.
            num_workers: processes that collate batches.
            seed: of the order of the examples.
            split: of a hub data set.
            answers: with path `self`: the prompts, and how the dense model answers them.
            cache_dir: where tokenised examples and answers are kept.
            trust_remote_code: run tokenizer or model code that lies beside the weights.
        """
        super().__init__()
        if not 0 <= validation_share < 1:
            raise ValueError(f"data.validation_share must be in [0, 1), got {validation_share}")
        if batch_size < 1 or max_length < 1:
            raise ValueError(
                f"data.batch_size and max_length must be positive, got {batch_size}, {max_length}"
            )
        if path == "self":
            answers.check()
        else:
            read_records(path, split)
        self.path = path
        self.model_name_or_path = model_name_or_path
        self.template = template
        self.max_length = max_length
        self.batch_size = batch_size
        self.validation_share = validation_share
        self.num_workers = num_workers
        self.seed = seed
        self.split = split
        self.answers = answers
        self.cache_dir = Path(cache_dir).expanduser()
        self.trust_remote_code = trust_remote_code
        self.position = 0

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The dense model's."""
        return load_tokenizer(self.model_name_or_path, trust_remote_code=self.trust_remote_code)

    @cached_property
    def cache(self) -> Path:
        """The folder of the tokenised examples, named by everything they depend on."""
        described = [self._source_digest, tokenizer_digest(self.tokenizer), self._words, str(self.max_length)]
        return self.cache_dir / f"examples-{hashlib.sha256(repr(described).encode()).hexdigest()[:16]}"

    @cached_property
    def _source_digest(self) -> str:
        if self.path == "self":
            return self.answers.digest(self.model_name_or_path)
        return file_digest(self.path) if Path(self.path).exists() else f"{self.path}[{self.split}]"

    @cached_property
    def _words(self) -> str:
        return Path(self.template).read_text() if Path(self.template).is_file() else self.template

    def prepare_data(self) -> None:
        """Build the cache unless it is there; one process of every node comes here."""
        if self.cache.is_dir():
            return
        encoder = Encoder(self.tokenizer, load_template(self.template, self.tokenizer), self.max_length)
        encoder.check()
        described = {"path": self.path, "template": self.template, "max_length": self.max_length}
        write_examples(self.cache, encoder(bar(self._records(), "tokenising")), described)
        log.info("tokenised %d examples of %s into %s", len(open_examples(self.cache)), self.path, self.cache)

    def _records(self) -> Iterator[Record]:
        if self.path != "self":
            return read_records(self.path, self.split)
        return answered_prompts(
            self.answers,
            self.model_name_or_path,
            self.cache_dir,
            trust_remote_code=self.trust_remote_code,
            track=bar,
        )

    def setup(self, stage: str) -> None:
        """Open the cache and part it into what is learned and what is held out."""
        self.examples: Examples = open_examples(self.cache)
        held_out = self.examples.digests.astype(np.float64) / 2**64 < self.validation_share
        self.training_rows = np.flatnonzero(~held_out)
        self.held_out_rows = np.flatnonzero(held_out)
        if not len(self.training_rows):
            raise ValueError(f"all {len(self.examples)} examples are held out; lower data.validation_share")
        counts = self.examples.lengths - self.examples.num_prompts
        self.targets: NDArray[np.int32] = counts[self.training_rows]
        self.order = Order(len(self.training_rows), self.seed)

    @property
    def share(self) -> Share:
        """This process's part of an optimizer step."""
        trainer = self.trainer
        assert trainer is not None
        return Share(
            self.batch_size, trainer.accumulate_grad_batches, trainer.world_size, trainer.global_rank
        )

    def train_dataloader(self) -> Loader:
        """One pass's batches, a whole number of optimizer steps; what is left opens the next pass."""
        share = self.share
        length = max(1, len(self.training_rows) // share.step_rows) * share.accumulation
        return self._loader(self._training_picks, length, self.training_rows)

    def _training_picks(self) -> Iterator[Pick]:
        return training_picks(self.order, self.targets, self.share, self.position)

    def val_dataloader(self) -> Loader | list[Any]:
        """The held-out examples, in order."""
        share = self.share
        length = -(-len(self.held_out_rows) // (share.batch_size * share.world_size))
        if not length:
            return []
        return self._loader(
            lambda: held_out_picks(len(self.held_out_rows), share), length, self.held_out_rows
        )

    def _loader(self, picks: Any, length: int, subset: NDArray[np.int64]) -> Loader:
        trainer = self.trainer
        assert trainer is not None
        on_gpu = trainer.strategy.root_device.type == "cuda"
        return Loader(picks, length, PaddedBatch(self.examples, subset), self.num_workers, pin_memory=on_gpu)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Remember how far training has come: by the batch that is trained on, not the one prefetched."""
        if self.trainer is not None and self.trainer.training:
            self.position = batch["position"]
        return batch

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a position to mean the same."""
        return {
            "examples": self.cache.name,
            "seed": self.seed,
            "training_rows": len(self.training_rows),
        }

    def state_dict(self) -> dict[str, Any]:
        """The position in the data, and the data it is a position in."""
        return {"position": self.position, "identity": self.identity}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved position; raises ValueError if it belongs to other data."""
        differing = list(differences(state_dict["identity"], self.identity, "data"))
        if differing:
            raise ValueError(
                "the checkpoint was written with other data (there -> here): " + "; ".join(differing)
            )
        self.position = state_dict["position"]


def file_digest(path: str) -> str:
    """Hash of a file's content."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()[:16]


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of what decides a text's ids: vocabulary and rules, EOS, chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    described = repr([rules, tokenizer.eos_token_id, tokenizer.chat_template])
    return hashlib.sha256(described.encode()).hexdigest()[:16]

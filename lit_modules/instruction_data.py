"""Instruction records for recovery: tokenised once, split by hash, sampled from a saved position."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
from lightning.pytorch import LightningDataModule, Trainer
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from lit_modules.bundling import Batching, Bundling, alone, by_length, packed
from lit_modules.collation import Collate
from lit_modules.portions import Portions, check_end
from lit_modules.samples import Samples, part
from lit_modules.sampling import Loader, Pick, Share, held_out_picks, training_picks
from lit_modules.self_answers import SelfAnswers
from lit_modules.sources import Source, Tokenising, weights_of
from lit_modules.token_cache import Examples
from pruner.checkpoint import load_tokenizer
from pruner.run_folder import differences

UNASKED = SelfAnswers()


class InstructionData(LightningDataModule):
    """Alpaca-like records, tokenised into a cache that all processes of a node share."""

    def __init__(
        self,
        path: str | dict[str, float],
        model_name_or_path: str,
        template: str = "alpaca",
        max_length: int = 256,
        batch_size: int = 4,
        batching: Batching = "padded",
        pack_length: int | None = None,
        validation_share: float = 0.02,
        num_workers: int = 1,
        seed: int = 0,
        split: str = "train",
        answers: SelfAnswers = UNASKED,
        cache_dir: str = "~/.cache/llm-prune",
        portion_size: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Check what can be checked without reading anything.

        Args:
            path: JSON, JSONL or Parquet file, hub name, alpaca, lamini, or `self`: the dense model's own
                answers; or several of them with how often each is seen in a pass, e.g.
                {alpaca: 2, lamini: 0.5}.
            model_name_or_path: the dense model, for its tokenizer and, with `self`, its answers.
            template: alpaca, chat (the tokenizer's own), a file, or a text with {instruction}, {input}
                and {response}.
            max_length: tokens per example; longer responses are cut, longer prompts left out.
            batch_size: rows per forward pass and process; a packed row holds several examples.
            batching: padded (each to the longest beside it), by_length (likewise, beside others of its
                length), or packed (several in a row of `pack_length`, each attending to itself alone).
            pack_length: tokens of a packed row; null: max_length.
            validation_share: share of the examples held out, chosen by a hash of their text.
            num_workers: threads that collate batches ahead; 0 collates when a batch is due.
            seed: of the order of the examples.
            split: of a hub data set.
            answers: with path `self`: the prompts, and how the dense model answers them.
            cache_dir: where tokenised examples and answers are kept.
            portion_size: records that are tokenised and kept on disk at a time, for data that does not fit;
                each portion is an epoch, and trainer.max_steps says when to end. Null: all records.
            trust_remote_code: run tokenizer or model code that lies beside the weights.
        """
        super().__init__()
        if not 0 <= validation_share < 1:
            raise ValueError(f"data.validation_share must be in [0, 1), got {validation_share}")
        if batch_size < 1 or max_length < 1:
            raise ValueError(
                f"data.batch_size and max_length must be positive, got {batch_size}, {max_length}"
            )
        self.pack_length = pack_length or max_length
        if batching not in get_args(Batching) or self.pack_length < max_length:
            raise ValueError(
                "data.batching must be padded, by_length or packed, with pack_length no less than max_length "
                f"{max_length}; got {batching}, {pack_length}"
            )
        self.weights = weights_of(path)
        self.sources = [
            Source(name, split, answers, model_name_or_path, trust_remote_code) for name in self.weights
        ]
        for source in self.sources:
            source.check()
        if portion_size is not None and (portion_size < 1 or len(self.sources) > 1):
            raise ValueError(
                f"data.portion_size must be positive and reads one source, got {portion_size} and "
                f"{len(self.sources)} sources; mix them into one file, or leave it out"
            )
        self.path = path
        self.model_name_or_path = model_name_or_path
        self.template = template
        self.max_length = max_length
        self.batch_size = batch_size
        self.batching = batching
        self.validation_share = validation_share
        self.num_workers = num_workers
        self.seed = seed
        self.cache_dir = Path(cache_dir).expanduser()
        self.portion_size = portion_size
        self.trust_remote_code = trust_remote_code
        self.position = self.portion = self.passes = 0

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The dense model's."""
        return load_tokenizer(self.model_name_or_path, trust_remote_code=self.trust_remote_code)

    @cached_property
    def tokenising(self) -> Tokenising:
        """What turns records into examples."""
        return Tokenising(self.tokenizer, self.template, self.max_length, self.cache_dir)

    @cached_property
    def caches(self) -> list[Path]:
        """The folders of the tokenised examples, one for each source."""
        return [self.tokenising.folder(source) for source in self.sources]

    @cached_property
    def portions(self) -> Portions | None:
        """The stream, where not all records are tokenised at once."""
        if self.portion_size is None:
            return None
        run = hashlib.sha256(str(self._trainer.default_root_dir).encode()).hexdigest()[:8]
        return Portions(self.tokenising, self.sources[0], self.portion_size, run)

    def prepare_data(self) -> None:
        """Build the caches that are not there; one process of every node comes here."""
        if self.portion_size is not None:
            return
        for source, folder in zip(self.sources, self.caches, strict=True):
            if not folder.is_dir():
                self.tokenising.build(source, folder)

    def setup(self, stage: str) -> None:
        """Open the caches, or a stream's first portion, and part them into learned and held out.

        Raises:
            ValueError: nothing is left to learn from, or a stream has no end.
        """
        if self.portions is None:
            self.samples = self._parted(self.caches)
        else:
            check_end(self._trainer)
            first = self.portions.ready(self._trainer, 0)
            assert first is not None
            self.samples = self._parted([first])
        self.first = self.samples
        self._opened = 0, 0

    def _parted(self, caches: Sequence[Path]) -> Samples:
        weights = list(self.weights.values())
        return part(caches, weights, self.validation_share, self._bundling, self.seed + self.passes)

    def _enter_portion(self, portions: Portions) -> None:
        """Open the portion that the position lies in, or where it lies at the end, the next one."""
        while True:
            here = self.portion, self.passes
            if self._opened == here and self.position < len(self.samples.order.bundling):
                return
            if self._opened == here:
                self.portion, self.position = self.portion + 1, 0
            folder = portions.ready(self._trainer, self.portion)
            if folder is None:
                self.portion, self.passes = 0, self.passes + 1
            else:
                self.samples = self._parted([folder])
                self._opened = self.portion, self.passes

    @property
    def _trainer(self) -> Trainer:
        assert self.trainer is not None
        return self.trainer

    def _bundling(self, lengths: NDArray[np.int32]) -> Bundling:
        if self.batching == "packed":
            return packed(lengths, self.pack_length)
        return by_length(lengths, self.batch_size) if self.batching == "by_length" else alone(len(lengths))

    @property
    def share(self) -> Share:
        """This process's part of an optimizer step."""
        trainer = self._trainer
        bundles = 1 if self.batching == "by_length" else self.batch_size
        return Share(bundles, trainer.accumulate_grad_batches, trainer.world_size, trainer.global_rank)

    def train_dataloader(self) -> Loader:
        """One pass's batches, a whole number of optimizer steps; what is left opens the next pass.

        Of a stream one portion's, the last step filled up.
        """
        if self.portions is not None:
            self._enter_portion(self.portions)
        samples, share, count = self.samples, self.share, len(self.samples.order.bundling)
        end = None if self.portions is None else count
        steps = count // share.step_size if end is None else -(-count // share.step_size)

        def picks() -> Iterator[Pick]:
            return training_picks(samples.order, samples.targets, share, self.position, end)

        return self._loader(picks, max(1, steps) * share.accumulation, samples.examples, samples.learned)

    def val_dataloader(self) -> Loader | list[Any]:
        """The held-out examples, each once; a stream's first portion's."""
        share, rows, examples = self.share, self.first.held_out, self.first.examples
        bundling = self._bundling(examples.lengths[rows])
        length = -(-len(bundling) // (share.batch_size * share.world_size))
        if not length:
            return []
        return self._loader(lambda: held_out_picks(bundling, share), length, examples, rows)

    def _loader(
        self, picks: Callable[[], Iterator[Pick]], length: int, examples: Examples, rows: NDArray[np.int64]
    ) -> Loader:
        on_gpu = self._trainer.strategy.root_device.type == "cuda"
        collate = Collate(examples, rows, self.pack_length if self.batching == "packed" else None)
        return Loader(picks, length, collate, self.num_workers, pin_memory=on_gpu)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Remember how far training has come: by the batch that is trained on, not the one prefetched."""
        if self.trainer is not None and self.trainer.training:
            self.position = batch["position"]
        return batch

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a position to mean the same."""
        sizes = {"packed": self.pack_length, "by_length": self.batch_size, "padded": 1}
        return {
            "examples": [folder.name for folder in self.caches],
            "weights": list(self.weights.values()),
            "seed": self.seed,
            "portion_size": self.portion_size,
            "training_rows": len(self.first.learned),
            "batching": f"{self.batching} {sizes[self.batching]}",
        }

    def state_dict(self) -> dict[str, Any]:
        """The position in the data, and the data it is a position in."""
        place = {"position": self.position, "portion": self.portion, "passes": self.passes}
        return {**place, "identity": self.identity}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved position; raises ValueError if it belongs to other data."""
        differing = list(differences(state_dict["identity"], self.identity, "data"))
        if differing:
            raise ValueError(
                "the checkpoint was written with other data (there -> here): " + "; ".join(differing)
            )
        self.position = state_dict["position"]
        self.portion, self.passes = state_dict["portion"], state_dict["passes"]

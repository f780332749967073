"""Where instruction records come from: one place or several, each with a weight, each its own cache."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from lit_modules.encoding import Encoder
from lit_modules.progress import bar
from lit_modules.self_answers import SelfAnswers, answered_prompts
from lit_modules.templates import load_template
from lit_modules.token_cache import open_examples, write_examples
from pruner.records import Record, read_records

log = logging.getLogger(__name__)

NAMES = {"alpaca": "yahma/alpaca-cleaned", "lamini": "MBZUAI/LaMini-instruction"}
SELF = "self"


@dataclass(frozen=True, slots=True)
class Source:
    """Records from one place.

    Attributes:
        path: JSON, JSONL or Parquet file, hub name, or `self`: the dense model's own answers.
        split: of a hub data set.
        answers: how the dense model answers, with path `self`.
        model: the dense model, which does so.
        trust_remote_code: run model code that lies beside its weights.
    """

    path: str
    split: str
    answers: SelfAnswers
    model: str
    trust_remote_code: bool

    def check(self) -> None:
        """Raise ValueError if nothing can be read."""
        if self.path == SELF:
            self.answers.check()
        else:
            read_records(self.path, self.split)

    @property
    def digest(self) -> str:
        """Hash of the records; for a hub data set its name."""
        if self.path == SELF:
            return self.answers.digest(self.model)
        return file_digest(self.path) if Path(self.path).exists() else f"{self.path}[{self.split}]"

    def records(self, cache_dir: Path) -> Iterator[Record]:
        """Every record with its place."""
        if self.path != SELF:
            return read_records(self.path, self.split)
        return answered_prompts(
            self.answers, self.model, cache_dir, trust_remote_code=self.trust_remote_code, track=bar
        )


@dataclass(frozen=True, slots=True)
class Tokenising:
    """What turns any source's records into cached examples."""

    tokenizer: PreTrainedTokenizerBase
    template: str
    max_length: int
    cache_dir: Path

    def folder(self, source: Source) -> Path:
        """Where a source's examples are kept, named by everything they depend on."""
        words = Path(self.template).read_text() if Path(self.template).is_file() else self.template
        described = repr([source.digest, tokenizer_digest(self.tokenizer), words, str(self.max_length)])
        return self.cache_dir / f"examples-{hashlib.sha256(described.encode()).hexdigest()[:16]}"

    def build(self, source: Source, folder: Path, records: Iterable[Record] | None = None) -> None:
        """Tokenise a source, or some records of it, into `folder`.

        Raises:
            ValueError: the template leaves no room, a record cannot be learned from, or there is none.
        """
        encoder = Encoder(self.tokenizer, load_template(self.template, self.tokenizer), self.max_length)
        encoder.check()
        described = {"path": source.path, "template": self.template, "max_length": self.max_length}
        rows = source.records(self.cache_dir) if records is None else records
        write_examples(folder, encoder(bar(rows, "tokenising")), described)
        log.info("tokenised %d examples of %s into %s", len(open_examples([folder])), source.path, folder)


def weights_of(path: str | Mapping[str, float]) -> dict[str, float]:
    """Where to read -> how often, with short names written out.

    Raises:
        ValueError: there is no source, or a weight is not positive.
    """
    weights = {path: 1.0} if isinstance(path, str) else dict(path)
    wrong = {name: weight for name, weight in weights.items() if not weight > 0}
    if not weights or wrong:
        raise ValueError(
            "data.path is a file, a hub name, or several with how often each is seen in a pass, e.g. "
            f"{{alpaca: 2, lamini: 0.5}}; got {wrong or 'none'}"
        )
    return {NAMES.get(name, name): weight for name, weight in weights.items()}


def weighted(rows: NDArray[np.int64], digests: NDArray[np.uint64], weight: float) -> NDArray[np.int64]:
    """`rows` as often as `weight` says; of a fraction those of smallest hash, the same in every pass.

    rows: (num_rows,) indices into digests -> (round(weight * num_rows),)
    """
    whole, rest = divmod(round(weight * len(rows)), max(1, len(rows)))
    by_hash = rows[np.argsort(digests[rows], kind="stable")]
    return np.concatenate([np.tile(rows, whole), np.sort(by_hash[:rest])])


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

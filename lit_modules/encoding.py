"""Records become token ids of which only the response, up to and with EOS, is learned."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from lit_modules.templates import Example, Template, example_of
from pruner.records import Record

CHUNK = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One example: its token ids (int32), how many of them are prompt, and a hash of its text."""

    input_ids: NDArray[np.int32]
    num_prompt: int
    digest: int


@dataclass(frozen=True, slots=True)
class Encoder:
    """Template, tokenizer and length limit: what turns a record into ids."""

    tokenizer: PreTrainedTokenizerBase
    template: Template
    max_length: int

    def check(self) -> None:
        """Raise ValueError where no example could be learned: no EOS, or no room for a response."""
        if self.tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no EOS token, so no end could be learned; set its eos_token")
        words = len(self._tokenise([self.template(Example("", "", "x"))[0]])[0])
        if self.max_length <= words:
            raise ValueError(
                f"data.max_length {self.max_length} leaves no room for a response: the template alone "
                f"takes {words} tokens"
            )

    def __call__(self, records: Iterable[Record]) -> Iterator[list[Encoded]]:
        """Encode in chunks; an example whose prompt alone fills `max_length` is left out."""
        rows = iter(records)
        while chunk := list(islice(rows, CHUNK)):
            texts = [self.template(example_of(record, place)) for record, place in chunk]
            yield [example for example in self._encode(texts) if example is not None]

    def _encode(self, texts: Sequence[tuple[str, str]]) -> Iterator[Encoded | None]:
        prompts = self._tokenise([prompt for prompt, _ in texts])
        wholes = self._tokenise([prompt + response for prompt, response in texts])
        for (prompt, response), asked, whole in zip(texts, prompts, wholes, strict=True):
            num_prompt = max(1, _shared_length(asked, whole))
            ids = self._ended(whole, num_prompt)[: self.max_length]
            digest = hashlib.blake2b((prompt + response).encode(), digest_size=8).digest()
            yield (
                Encoded(np.asarray(ids, dtype=np.int32), num_prompt, int.from_bytes(digest))
                if num_prompt < len(ids)
                else None
            )

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        encoded = self.tokenizer(texts, add_special_tokens=self.template.adds_special_tokens, verbose=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _ended(self, ids: list[int], num_prompt: int) -> list[int]:
        """The ids up to the response's last EOS; with one appended where it has none."""
        eos = self.tokenizer.eos_token_id
        for end in range(len(ids), num_prompt, -1):
            if ids[end - 1] == eos:
                return ids[:end]
        return [*ids, eos]


def _shared_length(prompt: Sequence[int], whole: Sequence[int]) -> int:
    """How many leading tokens the prompt alone and the whole text share: what generation also sees."""
    for index, (left, right) in enumerate(zip(prompt, whole)):
        if left != right:
            return index
    return min(len(prompt), len(whole))

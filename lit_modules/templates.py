"""How a record becomes a prompt and the response to be learned: Alpaca's words, the chat's, or one's own."""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\n{instruction}\n\n### Response:\n{response}"
)
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
    "### Input:\n{input}\n\n### Response:\n{response}"
)
SLOTS = ("instruction", "input", "response")
RESPONSES = ("output", "response")


@dataclass(frozen=True, slots=True)
class Example:
    """One exchange: what was asked, about what (often ""), and what was answered."""

    instruction: str
    input: str
    response: str


class Template(Protocol):
    """Puts the words around an example."""

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the tokenizer is to add its own, BOS above all."""
        ...

    def __call__(self, example: Example) -> tuple[str, str]:
        """The text up to the response, and the response with whatever follows it."""
        ...


def example_of(record: Mapping[str, Any], place: str, *, with_response: bool = True) -> Example:
    """Read Alpaca's fields (`instruction`, optional `input`, `output`) or LaMini's (`response`).

    Raises:
        ValueError: naming `place`, the fields expected and those found, or the empty response.
    """
    name = next((name for name in RESPONSES if name in record), None)
    if not isinstance(record.get("instruction"), str) or (with_response and name is None):
        raise ValueError(
            f"{place}: expected the fields instruction, output (or response) and optionally input, "
            f"got {', '.join(sorted(record)) or 'none'}"
        )
    response = record[name] if with_response and name else ""
    if with_response and not (isinstance(response, str) and response.strip()):
        raise ValueError(f"{place}: the field {name} is empty; remove the record, there is nothing to learn")
    return Example(record["instruction"], record.get("input") or "", response)


@dataclass(frozen=True, slots=True)
class TextTemplate:
    """A text with slots, one for examples with an input and one for those without."""

    with_input: str
    without_input: str
    adds_special_tokens: bool = True

    def __call__(self, example: Example) -> tuple[str, str]:
        """The text up to the response, and the response with whatever follows it."""
        text = self.with_input if example.input.strip() else self.without_input
        prompt, _, rest = text.partition("{response}")
        fields = {"instruction": example.instruction, "input": example.input}
        return prompt.format(**fields), example.response + rest.format(**fields)


class ChatTemplate:
    """The tokenizer's own chat template: one user turn, one assistant turn."""

    adds_special_tokens = False

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat template; use data.template: alpaca, or a file")
        self.tokenizer = tokenizer

    def __call__(self, example: Example) -> tuple[str, str]:
        """The text up to the response, and the response with whatever follows it."""
        asked = "\n\n".join(part for part in (example.instruction, example.input) if part.strip())
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": example.response}]
        prompt = self.tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
        text = self.tokenizer.apply_chat_template(turns, tokenize=False)
        if not text.startswith(prompt):
            raise ValueError(
                "the chat template writes another prompt before an answer than when it asks for one, so "
                "the response cannot be told apart; use data.template: alpaca, or a file"
            )
        return prompt, text[len(prompt) :]


def load_template(template: str, tokenizer: PreTrainedTokenizerBase) -> Template:
    """Resolve "alpaca", "chat", a file that holds a template, or the template's text itself.

    A text names its slots {instruction}, {input} (optional) and {response}; other braces are doubled.
    """
    if template == "alpaca":
        return TextTemplate(ALPACA_WITH_INPUT, ALPACA)
    if template == "chat":
        return ChatTemplate(tokenizer)
    if "{" not in template:
        if not Path(template).is_file():
            raise ValueError(
                f"data.template must be alpaca, chat, a file that exists or a text with slots, got {template}"
            )
        template = Path(template).read_text(encoding="utf-8")
    return _own_template(template)


def _own_template(text: str) -> TextTemplate:
    try:
        slots = [slot for _, slot, _, _ in string.Formatter().parse(text) if slot is not None]
    except ValueError as error:
        raise ValueError(
            f"the template's braces do not match ({error}); write a literal one twice"
        ) from error
    unknown = sorted(set(slots) - set(SLOTS))
    if unknown or slots.count("response") != 1:
        raise ValueError(
            f"a template has one slot {{response}} and may have {{instruction}} and {{input}}; got "
            f"{', '.join('{' + slot + '}' for slot in slots) or 'no slot'}"
        )
    if "input" in slots:
        return TextTemplate(text, text)
    return TextTemplate(text.replace("{instruction}", "{instruction}\n\n{input}"), text)

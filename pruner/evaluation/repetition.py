"""How much a text repeats itself: the failure that LLM-Pruner names as its own limitation."""

from collections.abc import Sequence


def repeated_ngrams(tokens: Sequence[int], n: int = 4) -> float:
    """Share of n-grams that occurred before in the same text (seq-rep-n, Welleck et al. 2020, section 5.2).

    Args:
        tokens: the generated tokens, without the prompt.
        n: tokens in an n-gram.

    Returns:
        0 where every n-gram is new, towards 1 where the text runs in a loop; 0 for fewer than `n` tokens.
    """
    ngrams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0

import pytest

from pruner.evaluation.repetition import repeated_ngrams


def test_a_text_without_repetition_repeats_nothing():
    assert repeated_ngrams(range(100)) == 0


def test_a_text_in_a_loop_repeats_almost_everything():
    assert repeated_ngrams([1, 2, 3] * 40) == pytest.approx(1 - 3 / 117)


def test_every_second_occurrence_counts_and_the_first_does_not():
    assert repeated_ngrams([1, 2, 1, 2, 3], n=2) == pytest.approx(1 / 4)


def test_a_text_shorter_than_an_ngram_repeats_nothing():
    assert repeated_ngrams([7, 7, 7], n=4) == 0

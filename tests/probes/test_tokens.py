"""Thinking tokens against counts done by hand."""

import time

import pytest
import torch

from probes import InputError, ThinkingToken, thinking_tokens
from probes.tokens import word_token_ids

VOCABULARY = ["Wait", " Wait", "wait", "\nWait", "So", " So", "1", " ", "don't", "Wait,", "  So", "é", " Hmm", "Wait"]


def test_counts_by_hand():
    # Wait: ids 0, 1, 1, 3; So: 5, 10; wait: 2; Hmm: 12; not words: 6, 7, 8, 9, 11
    tokens = thinking_tokens([0, 1, 1, 3, 5, 10, 2, 12, 6, 7, 8, 9, 11], VOCABULARY)
    assert tokens == [
        ThinkingToken("Wait", 4, 4 / 13, (0, 1, 13)),
        ThinkingToken("So", 2, 2 / 13, (4, 5)),
        ThinkingToken("Hmm", 1, 1 / 13, (12,)),
        ThinkingToken("wait", 1, 1 / 13, (2,)),
    ]


@pytest.mark.parametrize("ids", [[1, 4], (1, 4), torch.tensor([1, 4]), torch.tensor([1, 4], dtype=torch.int32)])
def test_ids_may_be_a_list_or_a_tensor(ids):
    assert [token.word for token in thinking_tokens(ids, VOCABULARY)] == ["So", "Wait"]


def test_nothing_to_count():
    assert thinking_tokens([], VOCABULARY) == []
    assert thinking_tokens(torch.tensor([], dtype=torch.long), VOCABULARY) == []
    assert thinking_tokens([6, 7], VOCABULARY) == []


def test_a_word_without_its_own_token_has_no_ids():
    assert thinking_tokens([0], ["\nHmm"]) == [ThinkingToken("Hmm", 1, 1.0, ())]


def test_lookup_matches_case_and_at_most_one_space():
    assert word_token_ids(["So", "Wait", "so"], VOCABULARY) == {"So": (4, 5), "Wait": (0, 1, 13), "so": ()}
    for word in ("", " So", "So\n"):
        with pytest.raises(InputError, match="expected words without space around them"):
            word_token_ids([word], VOCABULARY)


@pytest.mark.parametrize("bad", [[0, 14, 99, 14], [14, 99, 14], torch.tensor([14, 1, 99, 14])])
def test_ids_outside_the_vocabulary_are_refused(bad):
    with pytest.raises(InputError, match=r"token ids from 0 to 13.* received 3 outside, such as 14"):
        thinking_tokens(bad, VOCABULARY)


def test_negative_ids_do_not_count_from_the_end():
    with pytest.raises(InputError, match="1 outside, such as -1"):
        thinking_tokens([-1], VOCABULARY)


@pytest.mark.parametrize("bad", [torch.tensor([[1, 2]]), torch.tensor([1.0]), torch.tensor([True])])
def test_ids_must_be_one_row_of_integers(bad):
    with pytest.raises(InputError, match="expected peak_token_ids as one row of integers"):
        thinking_tokens(bad, VOCABULARY)


def test_a_large_vocabulary_is_read_once():
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["".join(letters[i // 26**k % 26] for k in range(4)) for i in range(150_000)]
    start = time.process_time()
    tokens = thinking_tokens(list(range(0, 150_000, 3)), vocabulary)
    assert len(tokens) == 50_000
    assert all(vocabulary[token.token_ids[0]] == token.word for token in tokens)
    assert time.process_time() - start < 10  # 0.2 s on an idle core; a pass a word would take an hour

"""Which tokens are at peaks: those that a peak has read, and those that it predicts, all of them counted.

Step t predicts response token t and has just read the token before it, whose residual stream is scored. So the words at
a layer's peaks are counted twice: by input token, and by predicted token, as the paper does. A word is a token's text
without the spaces around it; full stops, digits and tokens that are nothing but space count as well, and `is_word` says
which are words of letters, the paper's rule for thinking tokens (:func:`probes.thinking_tokens`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxtyping import Bool, Int
from torch import Tensor

from analyses.store.columns import INPUT, PREDICTED
from analyses.thinking import WORD

if TYPE_CHECKING:
    import pandas

__all__ = ["PeakWords"]

COLUMNS = ["layer", "site", "position", "word", "is_word", "count", "share", "token_ids"]


class PeakWords:
    """Counts the tokens at peaks while responses go by.

    >>> import torch
    >>> counted = PeakWords()
    >>> peaks = torch.tensor([[False, True, True]])
    >>> counted.add([2], peaks, torch.tensor([0, 1, 2]), torch.tensor([1, 2, 2]))
    >>> table = counted.table("resid_post", ["->", " 7", "."])
    >>> table[["position", "word", "is_word", "count", "share"]].to_dict("split")["data"]
    [['input', '.', False, 1, 0.5], ['input', '7', False, 1, 0.5], ['predicted', '.', False, 2, 1.0]]
    """

    def __init__(self) -> None:
        self.counts: dict[int, dict[str, Counter[int]]] = {}

    def add(
        self,
        layers: Sequence[int],
        peaks: Bool[Tensor, "layer step"],
        input_ids: Int[Tensor, " step"],
        token_ids: Int[Tensor, " step"],
    ) -> None:
        for layer, marked in zip(layers, peaks, strict=True):
            counts = self.counts.setdefault(layer, {INPUT: Counter(), PREDICTED: Counter()})
            counts[INPUT].update(input_ids[marked].tolist())
            counts[PREDICTED].update(token_ids[marked].tolist())

    def table(self, site: str, vocabulary: Sequence[str]) -> pandas.DataFrame:
        """One row a (layer, position, word), the most frequent first; ``vocabulary[i]`` is token i as text.

        ``token_ids`` are all that spell a word, with a leading space or without; of what is no word, all that differ by
        spaces around it alone.
        """
        import pandas as pd

        spelled: defaultdict[str, list[int]] = defaultdict(list)
        for token_id, text in enumerate(vocabulary):
            spelled[_word(text)].append(token_id)
        rows = []
        for layer in sorted(self.counts):
            for position, counts in self.counts[layer].items():
                words: Counter[str] = Counter()
                for token_id, count in counts.items():
                    words[_word(vocabulary[token_id])] += count
                for word, count in sorted(words.items(), key=lambda item: (-item[1], item[0])):
                    is_word = WORD.fullmatch(word) is not None
                    ids = [i for i in spelled[word] if not is_word or vocabulary[i].removeprefix(" ") == word]
                    listed = " ".join(map(str, ids))
                    rows.append((layer, site, position, word, is_word, count, count / words.total(), listed))
        return pd.DataFrame(rows, columns=COLUMNS)


def _word(text: str) -> str:
    """A token's text without the spaces around it; a token that is nothing else stands for itself."""
    return text.strip() or text

"""Statistics for comparing accuracies, scores and counts; every interval says how it was made.

1. One accuracy: `wilson`. Several samples of a problem are not independent; `accuracy_table` allows for that.
2. Two conditions on the same problems: `mcnemar` (exact), `paired_bootstrap`, `detectable_difference`, `power_note`.
3. Many conditions: `holm`; `accuracy_table` puts 1 to 3 together.
4. A score against right and wrong: `auc_with_interval`, `length_matched_auc`.
5. Counts: `odds_ratio`, `lift`, `jaccard`. Anything else: `bootstrap_interval`.

Pairs with a NaN (a grade that was not found out) are left out. What is undefined is NaN; no data is an `InputError`.
"""

from .accuracy import accuracy_table
from .association import jaccard, lift, odds_ratio
from .auc import MatchedAuc, auc_with_interval, length_matched_auc
from .bootstrap import bootstrap_interval, paired_bootstrap
from .conditions import McNemar, detectable_difference, holm, mcnemar, power_note
from .estimate import Estimate, wilson

__all__ = [
    "Estimate",
    "MatchedAuc",
    "McNemar",
    "accuracy_table",
    "auc_with_interval",
    "bootstrap_interval",
    "detectable_difference",
    "holm",
    "jaccard",
    "length_matched_auc",
    "lift",
    "mcnemar",
    "odds_ratio",
    "paired_bootstrap",
    "power_note",
    "wilson",
]

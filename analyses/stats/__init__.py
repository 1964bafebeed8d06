"""Statistics for comparing accuracies, scores and counts; every interval says how it was made.

Several samples of a problem, and several steps of a response, are not independent. What takes `clusters` (the problem
of each case) or counts by problem allows for that; an interval that the data cannot give is NaN, not one of no width.

1. One accuracy: `wilson`, or `proportion` of clustered cases.
2. Two conditions on the same problems: `mcnemar` (exact), `accuracy_difference`, `detectable_difference`, `power_note`;
   of scores `paired_bootstrap` and `paired_test`.
3. Many conditions: `holm`; `accuracy_table` puts 1 to 3 together.
4. A score against right and wrong: `auc_with_interval`, `length_matched_auc`.
5. Counts: `associations` (lift, odds ratio and Jaccard by problem), `odds_ratio` of independent cases, `jaccard` of
   collections. Anything else: `bootstrap_interval`; many means at once: `mean_intervals`, `sign_flips`.

Pairs with a NaN (a grade that was not found out) are left out. What is undefined is NaN; no data is an `InputError`.

What lives here takes numbers and says how sure they are; it knows no run, no table's file and no page. Scores of
residuals, their nulls and Holm's method itself are in :mod:`probes`.
"""

from analyses.stats.accuracy import accuracy_table
from analyses.stats.association import Association, Associations, associations, jaccard, odds_ratio
from analyses.stats.auc import MatchedAuc, auc_with_interval, length_matched_auc
from analyses.stats.bootstrap import accuracy_difference, bootstrap_interval, mean_intervals, paired_bootstrap
from analyses.stats.conditions import (
    McNemar,
    detectable_difference,
    holm,
    mcnemar,
    paired_test,
    power_note,
    sign_flips,
)
from analyses.stats.estimate import Estimate, proportion, wilson

__all__ = [
    "Association",
    "Associations",
    "Estimate",
    "MatchedAuc",
    "McNemar",
    "accuracy_difference",
    "accuracy_table",
    "associations",
    "auc_with_interval",
    "bootstrap_interval",
    "detectable_difference",
    "holm",
    "jaccard",
    "length_matched_auc",
    "mcnemar",
    "mean_intervals",
    "odds_ratio",
    "paired_bootstrap",
    "paired_test",
    "power_note",
    "proportion",
    "sign_flips",
    "wilson",
]

"""What an evaluation leaves out and why; together with the targets, the counts cover every row of the split.

The rows of a split are: not_positive_rows; rows of excluded users (cold_user_rows, rare_user_rows,
unsampled_user_rows); and, for the remaining users, repeated_rows (each target counts once), warm_targets
(items with train rows, left out by cold_items: only), seen_targets (excluded by exclude_seen) and the
targets.
"""

from collections.abc import Mapping

COUNTS = (
    "ranked_cold_users ranked_cold_rows split_rows not_positive_rows cold_users cold_user_rows rare_users "
    "rare_user_rows unsampled_users unsampled_user_rows repeated_rows warm_targets warm_users seen_targets "
    "seen_users"
).split()


# With evaluate.cold_users: rank, cold_users and cold_user_rows are 0: those users are evaluated.


def reasons(counts: Mapping[str, int]) -> list[str]:
    """What was left out and why, one phrase each; empty when nothing was left out."""

    def users(name: str, why: str) -> str:
        number, rows = counts.get(f"{name}_users", 0), counts.get(f"{name}_user_rows", 0)
        return f"{number:,} users ({rows:,} rows) {why}" if number or rows else ""

    found = [
        _some(counts, "not_positive_rows", "rows with a label that is not positive"),
        users("cold", "without positive train rows"),
        users("rare", "with fewer positive train rows than dataset.user_ids.min_count"),
        users("unsampled", "not sampled (evaluate.max_users)"),
        _some(counts, "repeated_rows", "rows that repeat a target of the same user"),
        _some(counts, "warm_targets", "targets with train rows (evaluate.cold_items: only)"),
        _some(counts, "warm_users", "users without other targets"),
        _some(counts, "seen_targets", "targets that the user has already seen (evaluate.exclude_seen)"),
        _some(counts, "seen_users", "users whose targets have all been seen"),
    ]
    return [reason for reason in found if reason]


def _some(counts: Mapping[str, int], name: str, what: str) -> str:
    number = counts.get(name, 0)
    return f"{number:,} {what}" if number else ""

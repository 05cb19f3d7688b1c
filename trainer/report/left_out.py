"""What an evaluation does not count, in numbers and in words: every row of the split is somewhere in them.

The rows of a split are: not_positive_rows, rows of users who are left out (cold_user_rows, rare_user_rows,
unsampled_user_rows), and, of the others, repeated_rows (each target counts once), seen_targets (which
exclude_seen leaves out) and the targets.
"""

from collections.abc import Mapping

COUNTS = (
    "split_rows not_positive_rows cold_users cold_user_rows rare_users rare_user_rows unsampled_users "
    "unsampled_user_rows repeated_rows seen_targets seen_users"
).split()


def reasons(counts: Mapping[str, int]) -> list[str]:
    """What was left out and why, as clauses for people; empty when nothing was."""

    def users(name: str, why: str) -> str:
        number, rows = counts.get(f"{name}_users", 0), counts.get(f"{name}_user_rows", 0)
        return f"{number:,} users ({rows:,} rows) {why}" if number or rows else ""

    found = [
        _some(counts, "not_positive_rows", "rows that are not positive"),
        users("cold", "without positive train rows"),
        users("rare", "with fewer positive train rows than dataset.user_ids.min_count"),
        users("unsampled", "beyond evaluate.max_users"),
        _some(counts, "repeated_rows", "rows that repeat a target of their user"),
        _some(counts, "seen_targets", "targets that their user had before (evaluate.exclude_seen)"),
        _some(counts, "seen_users", "users with no other targets than those"),
    ]
    return [reason for reason in found if reason]


def _some(counts: Mapping[str, int], name: str, what: str) -> str:
    number = counts.get(name, 0)
    return f"{number:,} {what}" if number else ""

"""Statistics over support draws: intervals, paired comparisons and learning curves.

Functions of numbers alone (numpy, scipy); what they mean for a user stands in docs/statistics.md.
"""

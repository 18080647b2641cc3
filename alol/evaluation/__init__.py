"""What is shown: metrics, the summary, the report, the comparison of runs, the judge, models that others trained.

May import: all rooms but checks. A new metric is a function named in `metrics.METRICS`, or one of a task's
format (docs/extending.md).
"""

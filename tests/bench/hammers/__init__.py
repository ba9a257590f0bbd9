"""What does a request cost with each load tool, and how late is it sent? ``make bench``, or ``python -m tests.bench.hammers``."""

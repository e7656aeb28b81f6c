"""What scripts/bench.py measures, a module for each kind of work."""

SIZES = ((120, 160), (480, 640))
"""Height and width of the pictures."""

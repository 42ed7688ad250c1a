"""The rows of the comparison."""

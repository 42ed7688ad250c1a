"""The parts of `docs/performance.md`: each module measures one table."""

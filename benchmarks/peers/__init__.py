"""One study run in three ways: what `benchmarks.parts.peers` compares."""

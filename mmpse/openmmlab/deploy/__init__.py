"""Models where they run: one exporter, the runtimes, int8, latency, the metric of a file."""

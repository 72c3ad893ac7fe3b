"""What benchmarks.train_throughput runs: the seed's pipeline, ours, and the backbone and rows that both get."""

"""What the benchmarks of admission share: a world of tenants with adapters, the real service, and load."""

"""The wire: protobuf to domain and back, nothing else."""

"""Trainer service: data sets in, LoRA adapters out. See `core` for the rules, `engine` for the compute, `api` for gRPC."""

"""Store care: garbage collection, the check and the copy, for a store with or without services on it.

Runs as a program of its own (`python -m adapter_store.care`) that `graft store` starts. Owns what may be removed, what is damaged
and what a copy holds; knows no gRPC and no torch.
"""

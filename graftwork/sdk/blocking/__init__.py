"""The blocking client: each call waits for its answer."""

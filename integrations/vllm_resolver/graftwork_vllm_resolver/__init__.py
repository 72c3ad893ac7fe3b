"""A stock vLLM server that loads adapters from a Graftwork store: `plugin.register` is the entry point.

Importing this package imports neither vLLM nor the store: vLLM loads its plugins in each of its processes.
"""

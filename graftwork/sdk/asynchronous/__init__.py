"""The asynchronous client: the same calls for asyncio. Docstrings with shapes, units and errors are the blocking client's."""

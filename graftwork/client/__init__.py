"""The Python SDK: typed calls of the three services, errors of our own hierarchy, retries of idempotent calls only."""

from graftwork.client.client import Client
from graftwork.client.errors import RemoteError
from graftwork.client.generation import Answer

__all__ = ["Answer", "Client", "RemoteError"]

"""The web console: pages for operators and, with a tenant's key, for that tenant.

A process of its own that talks gRPC to the services with the visitor's key and keeps no state but sessions in memory.
The only package of `graftwork` that may import fastapi; the command starts it as a process.
"""

"""Object-store backends: one small protocol, several stores. `open_backend` chooses by URL."""

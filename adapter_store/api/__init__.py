"""RegistryService over gRPC, and the keyring that authenticates every call. The only part of the store that knows gRPC."""

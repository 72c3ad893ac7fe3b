"""The gRPC server kit of both services: status table, authentication, one interceptor, health, reflection, TLS."""

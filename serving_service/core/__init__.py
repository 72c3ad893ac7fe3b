"""What serving means, free of transport and of engine: routing, residency, generation."""

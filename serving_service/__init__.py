"""The serving service: one frozen backbone, an adapter chosen per request."""

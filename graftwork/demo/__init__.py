"""The demo: three tenants with tasks that the backbone has never seen, trained and served for real, and checked."""

"""A user's config: read, built, inherited from, evaluated; its datasets and images."""

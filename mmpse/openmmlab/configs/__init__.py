"""A user's config: read, built, told apart by its datasets and images, evaluated, inherited from."""

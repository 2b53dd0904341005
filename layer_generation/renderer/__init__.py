"""Pictures of quadrants, made from terrain."""

"""The generation app: a map of quadrants in a browser, a queue that survives anything, models at work."""

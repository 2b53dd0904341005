"""Image layers drawn over a map of quadrants by image models, block by block.

The package is reserved here so that the distribution and its import contracts
carry both halves of fusi; it holds no code yet.
"""

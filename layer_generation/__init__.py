"""Image layers drawn over a map of quadrants by image models, block by block, without seams."""

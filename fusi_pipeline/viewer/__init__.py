"""Archives served over HTTP: tiles, TileJSON, the files themselves, and a page to look at them.

What belongs here is asked for by a browser or a map client; nothing here writes a file.
"""

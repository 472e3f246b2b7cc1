"""Features of images: extraction, search, binary codes, linear probes."""

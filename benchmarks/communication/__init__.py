"""What a compiled step sends; the command is `benchmarks.scaling`."""

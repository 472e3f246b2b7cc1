"""What the fields of a config may be, and those that say what data to read."""

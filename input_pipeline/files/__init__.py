"""Reading and writing files: safely, atomically, on several threads."""

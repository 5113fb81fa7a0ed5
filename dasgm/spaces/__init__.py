"""Search spaces, one file each. The name of the file is the space's key for --search-space."""

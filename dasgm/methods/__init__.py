"""Search methods, one file each. The name of the file is the method's key for --method."""

"""Search methods: one file each, its name is its key."""

"""Features explained automatically: what is recorded of them, who explains it, and how well an explanation holds."""

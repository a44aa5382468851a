"""Features pushed: written in place of what the SAE found, while the language model reads or goes on with a text."""

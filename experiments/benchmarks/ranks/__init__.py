"""What it takes to train one SAE in several processes."""

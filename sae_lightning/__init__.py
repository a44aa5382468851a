"""sae_lightning: train and read sparse autoencoders on language models."""

"""What runs in the peers' own environment (sae-lens 6.54.12, eai-sparsify 1.3.3, dictionary-learning 0.1.0): started by
path of an interpreter, with this tree on its path; imports nothing of the package."""

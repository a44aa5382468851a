"""Who says what a unit means: one explainer a file, from records to explanations."""

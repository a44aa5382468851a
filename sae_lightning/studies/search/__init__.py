"""Features looked for: by prompts and their combinations, by direction, by attribution, by influence."""

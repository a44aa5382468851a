"""Features looked for: by prompts and their combinations, by direction, by attribution, by influence, by explanation.

Each is a study of a ``Subject`` with a ``reader`` for texts of one's own and, for base rates, a ``store`` or windows:
``PromptSearch("a text").run(Subject(sae, lm, store=store, reader=store.reader)).tables["features"]``.
"""

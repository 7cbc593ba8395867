"""The C export: `model.c` is the code that is written, `source` fills in a model."""

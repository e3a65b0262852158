"""Language models that are asked in words: judges, and makers of instruction data."""

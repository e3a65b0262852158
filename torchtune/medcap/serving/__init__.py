"""Trained runs as an OpenAI-compatible server."""

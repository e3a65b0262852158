"""Instruction data by a language model: conversations from figure captions, their cleaning, paragraphs of answers."""

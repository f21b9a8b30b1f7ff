"""Judges: `await judge(prompt, sample=0) -> str | None`, what a language model answers, None where no answer came. One file each.

A reward that asks one has the keyword `judge`; in a config it is a spec, `judge=dict(name='http', url=..., model=...)`. `sample` tells
apart several answers to one prompt. The reward writes the prompt and reads the verdict out of the text.
"""

"""A look at compiled programs: for which chips, what they hold, and what they need there.

targets   chips that are not there
programs  the training step and generation, on arrays without values
hlo       FLOPs, cycles and exchanges, read from the text of a compiled program
reports   what a program needs on a chip, and what to change where it does not fit
batches   the largest batch of every model, one compilation after the other
"""

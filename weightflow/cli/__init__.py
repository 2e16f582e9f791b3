"""The commands, one file per stage: parse options, call the library, save. Torch is imported inside
commands.
"""

"""The commands, a file a stage of the pipeline: parse, call, save. Torch is imported inside them."""

"""The functions of `import weightflow`; the command line calls the same ones."""

"""The list of everything, the template of a method, and the command line."""

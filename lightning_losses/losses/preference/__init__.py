"""Objectives of preferences: of two completions of a prompt the chosen one becomes likelier than the rejected one."""

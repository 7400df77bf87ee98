"""Objectives of retrieval: queries find their documents, or their labels among very many."""

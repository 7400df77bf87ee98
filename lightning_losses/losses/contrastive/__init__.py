"""Objectives of pairs, triplets and batches of embeddings: like samples near each other, others far."""

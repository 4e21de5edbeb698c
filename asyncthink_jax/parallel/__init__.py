"""Meshes and shardings: which parameter and which activation lives where."""

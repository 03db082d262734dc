"""
Merge ranks of the encodings (data).
"""

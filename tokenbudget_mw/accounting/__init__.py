"""
From settled call to written batch.
"""

"""Data sets: names -> uint8 arrays in memory."""

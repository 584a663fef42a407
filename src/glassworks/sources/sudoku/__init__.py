"""Sudoku puzzles on 6x6 boards, split by symmetry class."""

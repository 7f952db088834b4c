"""The figures, one module for each kind; Matplotlib is imported where one is drawn."""

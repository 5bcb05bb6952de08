"""What becomes of swaps: a framework's configs swapped and run, and models trained before and after."""

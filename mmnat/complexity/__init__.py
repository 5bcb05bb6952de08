"""Parameters and multiply-accumulates of models, counted without computing or storing anything."""

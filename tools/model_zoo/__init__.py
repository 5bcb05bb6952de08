"""What the metafiles say of the published models, and the tables in the READMEs."""

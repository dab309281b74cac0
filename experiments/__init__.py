"""What proves the documents' claims: ablations, proofs, kills, speeds (not installed)."""

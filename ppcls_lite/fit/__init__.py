"""`ppcls-lite fit`: a folder of photographs becomes a trained, exported network."""

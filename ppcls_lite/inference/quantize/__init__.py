"""int8 files and their price."""

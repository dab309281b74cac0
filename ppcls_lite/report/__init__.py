"""What a person looks at. Read next: pictures.py."""

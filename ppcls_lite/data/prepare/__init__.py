"""The lists that training reads, written from data sets in other forms. Read first: cli.py."""

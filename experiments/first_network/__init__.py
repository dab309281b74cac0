"""A newcomer's ten minutes: a folder of photographs with faults becomes a served network."""

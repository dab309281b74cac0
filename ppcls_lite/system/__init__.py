"""The machine: home folder, files, processes, processor. Knows nothing of networks."""

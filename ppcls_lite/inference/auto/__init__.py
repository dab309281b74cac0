"""The choice of an engine by measurement, remembered."""

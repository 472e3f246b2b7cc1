"""Devices, processes, compilation and signals."""

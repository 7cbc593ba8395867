"""Old entry points, kept working; the code is in `itera_lite`."""

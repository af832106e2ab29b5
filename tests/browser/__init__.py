"""The report as a browser shows it."""

"""Every result for ArviZ."""

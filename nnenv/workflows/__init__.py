"""The stories: one short procedure per command."""

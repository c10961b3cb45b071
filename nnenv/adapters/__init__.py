"""The only place with network, disk, daemon, processes and clock."""

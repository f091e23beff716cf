"""The server: HTTP at one end, a device at the other. `README.md` has the map."""

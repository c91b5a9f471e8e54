"""Moving files between the laptop and the host, and running commands there: ssh and rsync."""

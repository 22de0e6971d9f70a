"""`connector schedule`: every flow on its own schedule, one process a run; or the crontab and the systemd units that do the same."""

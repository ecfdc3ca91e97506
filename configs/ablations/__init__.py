"""Lists of config differences, measured by the task `ablate`."""

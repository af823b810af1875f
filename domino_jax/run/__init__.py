"""From a config to a work directory: settings, phases, checkpoints, reports."""
